//! What more pods or more claimers bring. Their claims collide in community-api.

use anyhow::Result;

use crate::figures::Table;
use crate::process::Process;
use crate::run::{SOON, wait_for_polls};
use crate::world::{Climate, World};

pub fn measure(climate: Climate, rows: usize) -> Result<()> {
    let table = Table::new(
        &format!(
            "Claims under contention, round trip {} ms, {} ms from reading a row to locking it, {rows} rows",
            climate.round_trip_ms, climate.lock_ms
        ),
        [
            "pods × claimers",
            "rows/s",
            "× one",
            "lost races per row",
            "409s",
            "nextUpdate per row",
            "CPU per row (µs)",
        ],
    );
    let mut one = None;
    for (pods, claimers) in [(1, 1), (2, 1), (4, 1), (8, 1), (4, 4)] {
        let mut world = World::start(climate)?;
        let count = claimers.to_string();
        let settings = [SOON, ("OFFENDERUPDATEPOLL_CLAIMERS", &*count)];
        let services = (0..pods)
            .map(|_| Process::service(&world, &settings))
            .collect::<Result<Vec<_>>>()?;
        services.iter().try_for_each(Process::wait_until_ready)?;
        wait_for_polls(&mut world, 2 * pods * claimers)?;
        let cpu_seconds = || {
            services
                .iter()
                .map(Process::cpu_seconds)
                .sum::<Result<f64>>()
        };
        let conflicts = || {
            services
                .iter()
                .map(Process::contended_claims)
                .sum::<Result<u64>>()
        };
        let (cpu_before, conflicts_before) = (cpu_seconds()?, conflicts()?);
        let drained = world.drain(rows)?;
        let cpu = cpu_seconds()? - cpu_before;
        let rows_per_second = rows as f64 / drained.seconds;
        table.line(&[
            &format!("{pods} × {claimers}"),
            &format!("{rows_per_second:.0}"),
            &format!(
                "{:.2}",
                rows_per_second / *one.get_or_insert(rows_per_second)
            ),
            &format!("{:.2}", drained.lost_races as f64 / rows as f64),
            &(conflicts()? - conflicts_before),
            &format!("{:.3}", drained.calls["nextUpdate"] as f64 / rows as f64),
            &format!("{:.0}", cpu * 1e6 / rows as f64),
        ]);
    }
    Ok(())
}
