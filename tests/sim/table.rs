//! What a number of runs has seen, as a table, so that a quiet run is visible.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use probation_offender_events::outcome::{Label, RedeliveryCause};

use crate::faults::FAULT_KINDS;
use crate::log::{Answer, What};
use crate::run::Run;
use crate::seed::Kind;

/// Counts by name. The names are the lines of the table.
#[derive(Clone, Default)]
pub struct Table {
    pub runs: u64,
    counts: BTreeMap<&'static str, u64>,
    kinds: BTreeMap<Kind, u64>,
    virtual_time: Duration,
}

/// What a large number of runs must have seen.
const EVENTS: [&str; 17] = [
    "rows",
    "rows swallowed by a duplicate",
    "rows back after their lock ran out",
    "events accepted",
    "events accepted again",
    "rows counted as redelivered",
    "permanent failures",
    "unreadable rows claimed",
    "locks lost to other pods",
    "calls",
    "calls timed out",
    "kills",
    "SIGTERMs",
    "stalls",
    "clock jumps",
    "pods with the brake on",
    "pods with lost places",
];

impl Table {
    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        self.runs += 1;
        *self.kinds.entry(run.plan.kind).or_default() += 1;
        self.virtual_time += run.lasted;
        let mut accepted = std::collections::BTreeSet::new();
        for entry in &run.log {
            match &entry.what {
                What::Inserted(_) => self.count("rows", 1),
                What::Swallowed { .. } => self.count("rows swallowed by a duplicate", 1),
                What::Locked {
                    failed_update: true,
                    ..
                } => {
                    self.count("rows back after their lock ran out", 1);
                }
                What::Accepted(_, event) => {
                    let again = !accepted.insert(*event);
                    self.count(
                        if again {
                            "events accepted again"
                        } else {
                            "events accepted"
                        },
                        1,
                    );
                }
                What::Marked(..) => self.count("permanent failures", 1),
                What::Answered(
                    _,
                    Answer::Row {
                        readable: false, ..
                    },
                ) => {
                    self.count("unreadable rows claimed", 1);
                }
                What::LostRace(_) => self.count("locks lost to other pods", 1),
                What::Sent(..) => self.count("calls", 1),
                What::TimedOut(_) => self.count("calls timed out", 1),
                What::PodKilled => self.count("kills", 1),
                What::StopAsked => self.count("SIGTERMs", 1),
                What::Stalled(_) => self.count("stalls", 1),
                What::ClockJumped(_) => self.count("clock jumps", 1),
                What::Faulted(_, kind) => {
                    let named = FAULT_KINDS.iter().find(|(other, _)| other == kind);
                    self.count(named.unwrap().1, 1);
                }
                What::Counted {
                    redelivered,
                    brake_seen,
                    trouble_seen,
                    ..
                } => {
                    for (cause, count) in redelivered {
                        self.count(cause, *count);
                        self.count("rows counted as redelivered", *count);
                    }
                    self.count("pods with the brake on", u64::from(*brake_seen));
                    self.count("pods with lost places", u64::from(*trouble_seen));
                }
                _ => {}
            }
        }
    }

    fn count(&mut self, name: &'static str, by: u64) {
        *self.counts.entry(name).or_default() += by;
    }

    /// Adds the runs of another thread.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.virtual_time += other.virtual_time;
        for (name, by) in &other.counts {
            self.count(name, *by);
        }
        for (kind, by) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += by;
        }
    }

    pub fn unseen(&self) -> Vec<&'static str> {
        let unseen = |name: &&str| self.counts.get(name).copied().unwrap_or_default() == 0;
        // A process that stalls past a lease during a publish is nearly always past its timeout, too.
        let rare = "lease_overrun";
        Self::names()
            .filter(unseen)
            .filter(|&name| name != rare)
            .collect()
    }

    fn names() -> impl Iterator<Item = &'static str> {
        let causes = RedeliveryCause::ALL.iter().map(|cause| cause.name());
        let faults = FAULT_KINDS.iter().map(|&(_, name)| name);
        EVENTS.into_iter().chain(causes).chain(faults)
    }

    /// Prints directly, since the test harness would hide it.
    pub fn print(&self, took: Duration) {
        let mut out = String::from("\nsimulation\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<36} {value:>14}");
        };
        line("seeds", self.runs.to_string());
        for (kind, count) in &self.kinds {
            line(&format!("  of kind {kind:?}"), count.to_string());
        }
        line(
            "virtual hours",
            (self.virtual_time.as_secs() / 3600).to_string(),
        );
        line("wall-clock seconds", format!("{:.1}", took.as_secs_f64()));
        for name in Self::names() {
            let count = self.counts.get(name).copied().unwrap_or_default();
            line(name, count.to_string());
        }
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}
