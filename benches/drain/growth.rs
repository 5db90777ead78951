//! How the cost of a row depends on the length of the backlog, without a round trip.

use anyhow::Result;

use crate::figures::{Limits, Table};
use crate::process::Process;
use crate::run::{Run, SOON};
use crate::world::{Conditions, World};

/// Short drains are repeated until this many rows are drained, so that they can be measured.
const ROWS_AT_LEAST: usize = 10_000;

/// Prints the table, one process of the service for each length.
pub fn measure(backlogs: &[usize], limits: &mut Limits) -> Result<()> {
    let table = Table::new(
        "Length of the backlog, no round trip, one pod",
        [
            "rows × times",
            "rows/s",
            "CPU per row (µs)",
            "claim → settled, median / 99% (ms)",
            "memory before / end / peak (MB)",
        ],
    );
    let mut runs = Vec::new();
    for &rows in backlogs {
        let times = ROWS_AT_LEAST.div_ceil(rows);
        let mut world = World::start(Conditions::default())?;
        let process = Process::service(&world, &[SOON])?;
        let run = Run::of(&mut world, &process, rows, times)?;
        table.line(&[
            &format!("{rows} × {times}"),
            &format!("{:.0}", run.rows_per_second),
            &format!("{:.0}", run.cpu_micros_per_row),
            &run.settled_in(),
            &run.memory(),
        ]);
        runs.push(run);
    }
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return Ok(());
    };
    let farthest = |figure: fn(&Run) -> f64| {
        let off = runs
            .iter()
            .map(|run| (figure(run) / figure(first) - 1.0).abs() * 100.0);
        off.fold(0.0, f64::max)
    };
    limits.at_most(
        "time per row, off that of the shortest backlog",
        10.0,
        farthest(|run| 1.0 / run.rows_per_second),
        "%",
    );
    limits.at_most(
        "CPU per row, off that of the shortest backlog",
        10.0,
        farthest(|run| run.cpu_micros_per_row),
        "%",
    );
    limits.at_most(
        format!("growth of memory over {} rows", last.rows),
        3.0,
        last.memory_growth(),
        "MB",
    );
    Ok(())
}
