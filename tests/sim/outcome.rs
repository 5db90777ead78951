//! How each row must end: not lost, not late, and not left locked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::checker::{Violation, broken};
use crate::faults::Outage;
use crate::log::{Answer, Call, Endpoint, EventOf, What};
use crate::rows::{RowInWorld, Standing};
use crate::run::{Run, patience};
use crate::seed::{ClockFault, Kind, Offender, Plan, SERVE_AFTER_SECONDS};

const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// The longest `Retry-After`.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Rows {
    inserted: BTreeMap<i64, Duration>,
    accepted: BTreeMap<EventOf, Duration>,
    locked: BTreeMap<i64, Locked>,
    swallowed_by: BTreeMap<i64, i64>,
    /// When the row was deleted or marked.
    settled: BTreeMap<i64, Duration>,
    stop_asked: BTreeMap<usize, Duration>,
    trouble_over: Duration,
    /// Rows that an outage left locked. That is allowed if the pod could not distinguish the outage from a bad offender.
    stranded: BTreeSet<i64>,
    asked: BTreeMap<u64, i64>,
    /// The offenders that each pod has found, and when it first found them.
    found: BTreeMap<(usize, i64), Duration>,
}

#[derive(Clone, Copy)]
struct Locked {
    at: Duration,
    pod: usize,
}

/// Checks the outcome of a run.
pub fn check(run: &Run) -> Result<(), Violation> {
    let mut rows = Rows::default();
    for entry in &run.log {
        rows.entry(run, entry.at, entry.pod, &entry.what)?;
    }
    for (&id, row) in &run.rows {
        rows.nothing_is_lost(run, id, row)?;
        if matches!(run.plan.kind, Kind::Outage | Kind::AuthOutage) {
            rows.is_published_soon_after_the_outage(&run.plan, id)?;
        }
        if run.plan.is_good(row) {
            rows.is_settled_in_time(&run.plan, id)?;
        }
    }
    Ok(())
}

impl Plan {
    /// Whether the row can be published.
    pub fn is_good(&self, row: &RowInWorld) -> bool {
        !row.plan.unreadable
            && !row.plan.refused
            && self.offenders[row.plan.offender] == Offender::Well
    }

    /// Rows whose calls can occupy a place for long.
    fn rows_of_bad_offenders(&self) -> u32 {
        let bad = |offender| matches!(offender, Offender::Fails | Offender::Hangs);
        let rows = self
            .rows
            .iter()
            .filter(|row| bad(self.offenders[row.offender]));
        u32::try_from(rows.count()).unwrap()
    }

    /// When a good row must be settled at the latest, after the troubles.
    fn settled_by(&self) -> Duration {
        // A killed process lasts up to 30 s, and a stopped one up to its grace period. Its place is empty for 60 s.
        let restart =
            Duration::from_mins(1) + Duration::from_secs(30).max(self.settings.grace_period);
        let restarts = if self.restarts.is_empty() {
            Duration::ZERO
        } else {
            restart
        };
        let calls = self.settings.claim_timeout * 2
            + self.settings.call_timeout * 2
            + self.settings.publish_timeout;
        let bad = (self.settings.call_timeout * 2 + Duration::from_secs(5))
            * self.rows_of_bad_offenders();
        self.trouble_ends
            + self.stalls()
            + self.lock_expiry * 105 / 100
            + self.settings.fixed_delay * 2
            + LONGEST_BACKOFF
            + LONGEST_RETRY_AFTER
            + restarts
            + calls
            + bad
            + Duration::from_secs(15)
    }

    /// The longest time in which all rows of the plan are drained in a healthy world, once they exist: one after the
    /// other, by one pod that has just polled.
    fn drained_within(&self) -> Duration {
        let calls = 4 * u32::try_from(self.rows.len()).unwrap();
        let usual = Duration::from_millis(self.rates.usual_milliseconds);
        let served_after = Duration::from_secs(SERVE_AFTER_SECONDS.unsigned_abs());
        let drain = served_after + self.settings.fixed_delay + usual * calls;
        drain.max(Duration::from_secs(30))
    }

    /// Stalls delay the end of the troubles.
    fn stalls(&self) -> Duration {
        let stalls = self.clock_faults.iter().map(|(_, fault)| match fault {
            ClockFault::Stall(length) | ClockFault::StallOfAllButOne(length) => *length,
            ClockFault::Jump(_) => Duration::ZERO,
        });
        stalls.sum()
    }
}

impl Rows {
    fn entry(&mut self, run: &Run, at: Duration, pod: usize, what: &What) -> Result<(), Violation> {
        match *what {
            What::Inserted(row) => drop(self.inserted.insert(row, at)),
            What::Accepted(_, event) => drop(self.accepted.entry(event).or_insert(at)),
            What::Locked {
                row, failed_update, ..
            } => {
                let outage = matches!(run.plan.kind, Kind::Outage | Kind::AuthOutage);
                let before = self.locked.insert(row, Locked { at, pod });
                if outage && failed_update {
                    self.stranded.insert(row);
                }
                if outage && failed_update && !self.could_not_distinguish(run, row, before) {
                    return broken(4, format!("row {row} was stranded by the outage"));
                }
                let auth_outage = |outage: &Outage| {
                    // A claim may have been sent before it.
                    let begun = outage.from + Duration::from_secs(1);
                    outage.endpoint.is_none() && (begun..outage.to).contains(&at)
                };
                if run.plan.kind == Kind::AuthOutage && run.plan.outages.iter().any(auth_outage) {
                    return broken(4, format!("row {row} was claimed during an outage of auth"));
                }
            }
            What::Deleted(_, row) | What::Marked(_, row) => drop(self.settled.insert(row, at)),
            What::Swallowed { row, by } => {
                self.settled.insert(row, at);
                self.swallowed_by.insert(row, by);
            }
            What::TroubleOver => self.trouble_over = at,
            What::Sent(call, Call::Identifiers(offender)) => {
                self.asked.insert(call, offender);
            }
            What::Answered(call, Answer::Found) => {
                let offender = self.asked[&call];
                self.found.entry((pod, offender)).or_insert(at);
            }
            What::StopAsked => drop(self.stop_asked.insert(pod, at)),
            What::PodStopped => return self.nothing_stays_locked(run, at, pod),
            _ => {}
        }
        Ok(())
    }

    /// A pod that has never found another offender cannot distinguish an outage of identifiers from one bad offender,
    /// whose rows must not keep all places.
    fn could_not_distinguish(&self, run: &Run, row: i64, locked: Option<Locked>) -> bool {
        let offender = run.rows[&row].offender_id();
        let outage = run.plan.outages[0];
        let knew_another = |pod| {
            self.found
                .iter()
                .any(|(&(finder, other), &at)| finder == pod && other != offender && at < outage.to)
        };
        outage.endpoint == Some(Endpoint::Identifiers)
            && locked.is_some_and(|locked| !knew_another(locked.pod))
    }

    fn nothing_stays_locked(&self, run: &Run, at: Duration, pod: usize) -> Result<(), Violation> {
        let took = at.saturating_sub(self.stop_asked[&pod]);
        if took > run.plan.settings.grace_period + run.plan.stalls() + Duration::from_secs(1) {
            return broken(10, format!("pod {pod} took {took:?} to stop"));
        }
        let healthy_from = match run.plan.kind {
            Kind::RollingRestart | Kind::BadRows => Duration::ZERO,
            _ => run.plan.trouble_ends + run.plan.stalls() + Duration::from_mins(2),
        };
        for (&row, locked) in &self.locked {
            let held =
                locked.pod == pod && locked.at >= healthy_from && !self.settled.contains_key(&row);
            if held && run.plan.is_good(&run.rows[&row]) {
                return broken(
                    10,
                    format!("pod {pod} has stopped and left row {row} locked"),
                );
            }
        }
        Ok(())
    }

    fn nothing_is_lost(&self, run: &Run, id: i64, row: &RowInWorld) -> Result<(), Violation> {
        match row.standing {
            Standing::Failed => Ok(()),
            Standing::Deleted => {
                let missing = (0..row.events)
                    .find(|&index| !self.accepted.contains_key(&EventOf { row: id, index }));
                match missing {
                    Some(index) => broken(1, format!("event {index} of row {id} is lost")),
                    None => Ok(()),
                }
            }
            // The row that replaced it is checked instead.
            Standing::Swallowed => match self.swallowed_by.get(&id) {
                Some(by) if run.rows.contains_key(by) => Ok(()),
                _ => broken(3, format!("row {id} has gone")),
            },
            Standing::Live => {
                let bad = matches!(
                    run.plan.offenders[row.plan.offender],
                    Offender::Fails | Offender::Hangs
                );
                if bad {
                    return self.is_tried_again(run, id);
                }
                broken(
                    3,
                    format!("row {id} is still there after {:?}", patience(&run.plan)),
                )
            }
        }
    }

    /// A row that always fails is retried each time its lock expires.
    fn is_tried_again(&self, run: &Run, id: i64) -> Result<(), Violation> {
        let tried = self.locked.get(&id).map(|locked| locked.at);
        let from = tried.unwrap_or(self.inserted[&id]).max(self.trouble_over);
        let forgotten = run.lasted.saturating_sub(from);
        let longest = run.plan.settled_by().saturating_sub(run.plan.trouble_ends)
            + run.plan.settings.grace_period;
        if forgotten > longest {
            return broken(11, format!("row {id} was not tried for {forgotten:?}"));
        }
        Ok(())
    }

    fn is_settled_in_time(&self, plan: &Plan, id: i64) -> Result<(), Violation> {
        let settled = self.settled[&id];
        let by = plan.settled_by();
        if settled > by {
            return broken(
                3,
                format!("row {id} was settled at {settled:?}, later than {by:?}"),
            );
        }
        Ok(())
    }

    fn is_published_soon_after_the_outage(&self, plan: &Plan, id: i64) -> Result<(), Violation> {
        let Some(&published) = self.accepted.get(&EventOf { row: id, index: 0 }) else {
            return Ok(());
        };
        if self.stranded.contains(&id) {
            return Ok(());
        }
        let inserted = self.inserted[&id];
        let outage = plan.outages[0];
        let settings = &plan.settings;
        let soon = LONGEST_BACKOFF
            + LONGEST_RETRY_AFTER
            + settings.fixed_delay
            + settings.call_timeout * 2
            + settings.publish_timeout
            + Duration::from_secs(15);
        let from = if inserted + plan.drained_within() < outage.from {
            inserted
        } else {
            inserted.max(outage.to)
        };
        if published > from + soon {
            return broken(
                4,
                format!("row {id} was published at {published:?}, {soon:?} after {from:?}"),
            );
        }
        Ok(())
    }
}
