//! Runs many seeds on all cores, and collects what they found.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::checker::{Violation, check};
use crate::planted::Bug;
use crate::run::run;
use crate::seed::Plan;
use crate::table::Table;

/// In the quick tests.
const QUICK_SEEDS: u64 = 100;
/// Enough to see a pattern.
const MOST_FOUND: usize = 20;
/// How many runs of a thread are merged at a time.
const MERGED_AFTER: u64 = 1_000;
/// How many runs of all threads there are between two reports.
const PRINTED_AFTER: u64 = 50_000;

/// Which seeds are run.
#[derive(Clone, Debug)]
pub struct Options {
    pub first: u64,
    pub seeds: u64,
    pub replay: Option<u64>,
    pub stop_at_first: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first: 0,
            seeds: 2_000,
            replay: None,
            stop_at_first: false,
        }
    }
}

/// What the environment asks for.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Options {
    pub fn from_environment() -> Self {
        let defaults = Self::default();
        Self {
            first: number("SIM_FIRST_SEED").unwrap_or(defaults.first),
            seeds: number("SIM_SEEDS").unwrap_or(QUICK_SEEDS),
            replay: number("SIM_SEED"),
            ..defaults
        }
    }
}

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    pub violation: Violation,
}

/// Runs the seeds. Returns the table, the violations by seed, and how long it took.
pub fn run_many(options: &Options, bug: Option<Bug>) -> (Table, Vec<Found>, Duration) {
    let started = SystemTime::now();
    let next = AtomicU64::new(options.first);
    let enough = AtomicBool::new(false);
    let results = Mutex::new((Table::default(), Vec::new()));
    let work = || {
        let mut table = Table::default();
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.first + options.seeds {
                break;
            }
            if let Err(violation) = one(seed, bug, &mut table) {
                if bug.is_none() {
                    // Immediately, so that an interrupted run has reported it.
                    let line = format!("seed {seed}: {violation:?}\n");
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
                let found = &mut results.lock().unwrap().1;
                found.push(Found { seed, violation });
                if options.stop_at_first || found.len() >= MOST_FOUND {
                    enough.store(true, Ordering::Relaxed);
                }
            }
            if table.runs == MERGED_AFTER {
                let mut results = results.lock().unwrap();
                results.0.merge(&std::mem::take(&mut table));
                // So that an interrupted run has reported what it saw.
                if results.0.runs.is_multiple_of(PRINTED_AFTER) {
                    results.0.print(started.elapsed().unwrap_or_default());
                }
            }
        }
        results.lock().unwrap().0.merge(&table);
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (table, mut found) = results.into_inner().unwrap();
    found.sort_by_key(|found| found.seed);
    (table, found, started.elapsed().unwrap_or_default())
}

fn one(seed: u64, bug: Option<Bug>, table: &mut Table) -> Result<(), Violation> {
    let run = catch_unwind(AssertUnwindSafe(|| run(Plan::of(seed), bug)));
    let Ok(run) = run else {
        return crate::checker::broken(0, "the run panicked");
    };
    table.add(&run);
    check(&run)
}

/// The found violations, with the command that replays each.
pub fn describe(found: &[Found]) -> String {
    let lines = found.iter().map(|Found { seed, violation }| {
        let Violation { promise, what } = violation;
        let replay = format!("SIM_SEED={seed} cargo test --test sim every_promise");
        format!("seed {seed} breaks promise {promise}: {what}\n    replay: {replay}\n")
    });
    lines.collect()
}
