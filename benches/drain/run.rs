//! One measured process draining a backlog.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::figures::percentile;
use crate::process::{Memory, Process};
use crate::world::World;

/// A short interval, so that a drain starts soon after the backlog exists.
pub const SOON: (&str, &str) = ("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "200");
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Run {
    pub rows: usize,
    pub rows_per_second: f64,
    pub calls: BTreeMap<String, u64>,
    pub settled_milliseconds: Vec<u32>,
    pub cpu_micros_per_row: f64,
    pub memory_before: Memory,
    pub memory_at_end: Memory,
}

impl Run {
    /// Drains `rows` rows, `times` times.
    pub fn of(world: &mut World, process: &Process, rows: usize, times: usize) -> Result<Self> {
        wait_for_polls(world, 2)?;
        let memory_before = process.memory()?;
        let mut run = Self {
            rows: rows * times,
            rows_per_second: 0.0,
            calls: BTreeMap::new(),
            settled_milliseconds: Vec::new(),
            cpu_micros_per_row: 0.0,
            memory_before,
            memory_at_end: memory_before,
        };
        let (mut seconds, mut cpu_seconds) = (0.0, 0.0);
        for _ in 0..times {
            let cpu_before = process.cpu_seconds()?;
            let drained = world.drain(rows)?;
            run.settled_milliseconds.extend(process.settled(rows)?);
            cpu_seconds += process.cpu_seconds()? - cpu_before;
            seconds += drained.seconds;
            for (name, count) in drained.calls {
                *run.calls.entry(name).or_default() += count;
            }
        }
        run.settled_milliseconds.sort_unstable();
        run.memory_at_end = process.memory()?;
        run.rows_per_second = run.rows as f64 / seconds;
        run.cpu_micros_per_row = cpu_seconds * 1e6 / run.rows as f64;
        Ok(run)
    }

    /// The time from claim to settled: median and 99%.
    pub fn settled_in(&self) -> String {
        let part = |percent| percentile(&self.settled_milliseconds, percent);
        format!("{} / {}", part(50), part(99))
    }

    /// Resident memory before, at the end and at most.
    pub fn memory(&self) -> String {
        let (before, end) = (self.memory_before.now, self.memory_at_end);
        format!("{before:.1} / {:.1} / {:.1}", end.now, end.peak)
    }

    pub fn memory_growth(&self) -> f64 {
        self.memory_at_end.peak - self.memory_before.now
    }

    /// Calls of one kind for each row.
    pub fn calls_per_row(&self, kind: &str) -> f64 {
        self.calls.get(kind).copied().unwrap_or_default() as f64 / self.rows as f64
    }
}

/// Waits for this many polls. By then all connections exist, and the process is idle.
pub fn wait_for_polls(world: &mut World, polls: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while world.calls()?["nextUpdate"] < polls {
        ensure!(Instant::now() < deadline, "no polls within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
