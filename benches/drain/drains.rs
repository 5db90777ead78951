//! How fast a backlog is drained, and what a row costs, at several round trips: the service against the bare client and
//! the sequential baseline.

use anyhow::Result;

use crate::bare;
use crate::figures::{Limits, Table};
use crate::process::Process;
use crate::run::{Run, SOON};
use crate::world::{Conditions, World};

/// How long a measurement takes.
pub struct Effort {
    pub seconds: f64,
}

/// Prints the tables for one round trip.
pub fn measure(round_trip_ms: u64, effort: &Effort, limits: &mut Limits) -> Result<()> {
    let conditions = Conditions {
        round_trip_ms,
        lock_ms: 0,
    };
    let mut world = World::start(conditions)?;
    let round_trip = bare::round_trip(&mut world, 200)?.as_secs_f64();
    drop(world);
    // Without a round trip the processors are the limit. This is about what they can do.
    let rows_of_one = (effort.seconds / round_trip.max(0.000_7)) as usize;

    let mut world = World::start(conditions)?;
    let process = Process::sequential(&world)?;
    let sequential = Run::of(&mut world, &process, rows_of_one.div_ceil(5), 1)?;
    drop((process, world));

    let table = Table::new(
        &format!(
            "Round trip {round_trip_ms} ms ({:.2} ms as a bare client sees it, back to back)",
            round_trip * 1e3
        ),
        [
            "who",
            "rows",
            "rows/s",
            "of the limit",
            "× sequential",
            "claim → settled, median / 99% (ms)",
            "CPU per row (µs)",
            "memory before / end / peak (MB)",
            "calls per row: claim, identifiers, publish, delete",
        ],
    );
    let print = |who: &str, run: &Run, limit: f64| {
        table.line(&[
            &who,
            &run.rows,
            &format!("{:.1}", run.rows_per_second),
            &format!("{:.1}%", run.rows_per_second / limit * 100.0),
            &format!("{:.2}", run.rows_per_second / sequential.rows_per_second),
            &run.settled_in(),
            &format!("{:.0}", run.cpu_micros_per_row),
            &run.memory(),
            &["nextUpdate", "identifiers", "publish", "delete"]
                .map(|kind| format!("{:.3}", run.calls_per_row(kind)))
                .join(", "),
        ]);
    };
    print("sequential", &sequential, 1.0 / round_trip);
    let limit = 1.0 / round_trip;
    let mut world = World::start(conditions)?;
    let bare = bare::claims_and_deletes(&mut world, rows_of_one)?;
    table.line(&[
        &"bare client, only claims and deletes",
        &rows_of_one,
        &format!("{bare:.1}"),
        &format!("{:.1}%", bare / limit * 100.0),
        &"",
        &"",
        &"",
        &"",
        &"",
    ]);
    drop(world);

    let mut world = World::start(conditions)?;
    let process = Process::service(&world, &[SOON])?;
    let run = Run::of(&mut world, &process, rows_of_one, 1)?;
    print("service", &run, limit);
    judge(round_trip_ms, &run, limit, &sequential, limits);
    Ok(())
}

fn judge(round_trip_ms: u64, run: &Run, limit: f64, sequential: &Run, limits: &mut Limits) {
    let at = format!("{round_trip_ms} ms");
    if round_trip_ms > 0 {
        let share = run.rows_per_second / limit * 100.0;
        limits.at_least(
            format!("share of back-to-back claims, {at}"),
            95.0,
            share,
            "%",
        );
    }
    if round_trip_ms == 20 {
        let times = run.rows_per_second / sequential.rows_per_second;
        limits.at_least(
            format!("times the sequential baseline, {at}"),
            4.5,
            times,
            "×",
        );
    }
    // A claim without a row ends each drain, and an idle poll may come before the counters are read.
    let calls: u64 = run.calls.values().sum();
    let surplus = calls as f64 - 4.0 * run.rows as f64;
    limits.at_most(
        format!("calls beyond 4 per row, in all, {at}"),
        3.0,
        surplus,
        "",
    );
    limits.at_most(
        format!("CPU per row, {at}"),
        300.0,
        run.cpu_micros_per_row,
        "µs",
    );
}
