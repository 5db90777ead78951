//! What more pods bring. Their claims collide in community-api.

use anyhow::Result;

use crate::figures::Table;
use crate::process::Process;
use crate::run::{SOON, wait_for_polls};
use crate::world::{Conditions, World};

pub fn measure(conditions: Conditions, rows: usize) -> Result<()> {
    let table = Table::new(
        &format!(
            "Claims under contention, round trip {} ms, {} ms from reading a row to locking it, {rows} rows",
            conditions.round_trip_ms, conditions.lock_ms
        ),
        ["pods", "rows/s", "lost races per row", "409s"],
    );
    for pods in [1, 2, 4, 8] {
        let mut world = World::start(conditions)?;
        let services = (0..pods)
            .map(|_| Process::service(&world, &[SOON]))
            .collect::<Result<Vec<_>>>()?;
        services.iter().try_for_each(Process::wait_until_ready)?;
        wait_for_polls(&mut world, 2 * pods)?;
        let conflicts = || {
            services
                .iter()
                .map(Process::contended_claims)
                .sum::<Result<u64>>()
        };
        let conflicts_before = conflicts()?;
        let drained = world.drain(rows)?;
        table.line(&[
            &pods,
            &format!("{:.0}", rows as f64 / drained.seconds),
            &format!("{:.2}", drained.lost_races as f64 / rows as f64),
            &(conflicts()? - conflicts_before),
        ]);
    }
    Ok(())
}
