//! What the service costs when there is nothing to do: at the start, while idle, on disk.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::figures::{Limits, Table};
use crate::process::{Process, SERVICE};
use crate::run::wait_for_polls;
use crate::world::{Conditions, World};

/// How often the start is measured, and how many intervals of ten seconds are waited.
pub struct Effort {
    pub starts: usize,
    pub intervals: u32,
}

/// Prints the table.
pub fn measure(effort: &Effort, limits: &mut Limits) -> Result<()> {
    let mut world = World::start(Conditions::default())?;
    let mut starts = Vec::new();
    for _ in 0..effort.starts {
        let started = Instant::now();
        let process = Process::service(&world, &[])?;
        process.wait_until_ready()?;
        starts.push(started.elapsed().as_secs_f64() * 1e3);
        drop(process);
    }
    starts.sort_by(f64::total_cmp);
    let start = starts.get(starts.len() / 2).copied().unwrap_or_default();
    let slowest = starts.last().copied().unwrap_or_default();

    let process = Process::service(&world, &[])?;
    process.wait_until_ready()?;
    let so_far = world.calls()?["nextUpdate"];
    wait_for_polls(&mut world, so_far + 1)?;
    let (calls, cpu) = (world.calls()?, process.cpu_seconds()?);
    let idle = Duration::from_secs(10) * effort.intervals;
    std::thread::sleep(idle);
    let (calls_after, cpu_after) = (world.calls()?, process.cpu_seconds()?);
    let made: u64 = calls_after.values().sum::<u64>() - calls.values().sum::<u64>();
    let calls_per_interval = made as f64 / f64::from(effort.intervals);
    let core = (cpu_after - cpu) / idle.as_secs_f64() * 100.0;
    let memory = process.memory()?.now;
    let binary = std::fs::metadata(SERVICE)?.len() as f64 / 1e6;

    let table = Table::new("Standing costs, default settings", ["what", "measured"]);
    table.line(&[
        &format!("start to ready, median / slowest of {}", effort.starts),
        &format!("{start:.0} / {slowest:.0} ms"),
    ]);
    table.line(&[
        &format!("idle for {} s: calls per interval of 10 s", idle.as_secs()),
        &format!("{calls_per_interval:.2}"),
    ]);
    table.line(&[&"idle: share of a core", &format!("{core:.3}%")]);
    table.line(&[&"idle: resident memory", &format!("{memory:.1} MB")]);
    table.line(&[&"binary", &format!("{binary:.1} MB")]);

    limits.at_most("start to ready", 50.0, start, " ms");
    limits.at_most("idle, calls per interval", 1.0, calls_per_interval, "");
    limits.at_most("idle, share of a core", 0.1, core, " %");
    limits.at_most("resident memory, idle", 15.0, memory, " MB");
    limits.at_most("release binary", 15.0, binary, " MB");
    Ok(())
}
