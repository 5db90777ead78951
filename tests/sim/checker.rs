//! The promises that the log shows, call by call. [`crate::outcome`] checks how each row ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use probation_offender_events::config::PollerSettings;
use probation_offender_events::ports::CallErrorKind;

use crate::log::{Answer, Call, Entry, EventOf, What};
use crate::run::Run;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub promise: u8,
    pub what: String,
}

/// Returns the first promise that a run breaks.
pub fn check(run: &Run) -> Result<(), Violation> {
    let mut calls = Calls::new(run);
    for entry in &run.log {
        calls.entry(entry)?;
    }
    crate::outcome::check(run)
}

pub fn broken<T>(promise: u8, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation {
        promise,
        what: what.into(),
    })
}

/// The most rows that a pod may hold. From 64 rows beyond the limit on, the clock claims at growing intervals: about 55
/// more rows in a lease.
fn most_held(settings: &PollerSettings) -> usize {
    settings.held_limit + 64 + 60
}

struct Calls<'a> {
    run: &'a Run,
    pods: BTreeMap<usize, PodSoFar>,
    accepted: BTreeSet<EventOf>,
}

#[derive(Default)]
struct PodSoFar {
    /// Sent, not answered, and still awaited.
    under_way: BTreeSet<u64>,
    sent: BTreeMap<u64, Sent>,
    /// Its latest claim of each row.
    claims: BTreeMap<i64, Claim>,
    claims_counted: u64,
    /// The rows whose message ids it has all received while it held them.
    published: BTreeSet<i64>,
    /// The rows with a publish that may or may not have taken effect.
    doubtful: BTreeSet<i64>,
    /// The claim whose row was published last, for each offender.
    published_last: BTreeMap<usize, u64>,
    /// When it first tried to mark each row that it has marked.
    marked: BTreeMap<i64, Duration>,
    mark_tried: BTreeMap<i64, Duration>,
    redelivered: BTreeSet<(i64, u64)>,
    /// How many of its publishes have a reason to be counted as redeliveries.
    may_be_redeliveries: u64,
    is_killed: bool,
}

struct Sent {
    at: Duration,
    call: Call,
    claim: Option<u64>,
    given_up: bool,
    /// The events that it published although they were on the topic.
    again: Vec<EventOf>,
}

#[allow(clippy::struct_excessive_bools)]
#[derive(Clone)]
struct Claim {
    number: u64,
    sent_at: Duration,
    answered_at: Duration,
    failed_update: bool,
    readable: bool,
    not_found: bool,
    refused: bool,
    answered: BTreeSet<EventOf>,
}

impl<'a> Calls<'a> {
    fn new(run: &'a Run) -> Self {
        Self {
            run,
            pods: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Violation> {
        let at = entry.at;
        let pod = self.pods.entry(entry.pod).or_default();
        match &entry.what {
            What::Sent(number, call) => self.sent(at, entry.pod, *number, call),
            What::Accepted(call, event) => self.accepted(at, entry.pod, *call, *event),
            What::Answered(number, answer) => {
                pod.under_way.remove(number);
                self.answered(at, entry.pod, *number, answer);
                Ok(())
            }
            What::TimedOut(number) => {
                pod.under_way.remove(number);
                let sent = pod.sent.get_mut(number).unwrap();
                sent.given_up = true;
                if let Call::Publish(events) = &sent.call {
                    pod.doubtful.insert(events[0].row);
                }
                Ok(())
            }
            What::PodKilled => {
                pod.is_killed = true;
                Ok(())
            }
            What::Counted {
                redelivered,
                most_held,
                panicked,
                ..
            } => {
                if *panicked > 0 {
                    return broken(0, format!("the tasks of {panicked} rows panicked"));
                }
                let counted = redelivered.iter().map(|(_, count)| count).sum();
                self.ended(entry.pod, counted, *most_held)
            }
            _ => Ok(()),
        }
    }

    fn sent(&mut self, at: Duration, number: usize, id: u64, call: &Call) -> Result<(), Violation> {
        let settings = &self.run.plan.settings;
        let pod = self.pods.get_mut(&number).unwrap();
        pod.under_way.insert(id);
        // A row has one call under way, and there is one claim besides.
        if pod.under_way.len() > most_held(settings) + 1 {
            return broken(
                4,
                format!("pod {number} has more calls under way than rows"),
            );
        }
        let mut sent = Sent {
            at,
            call: call.clone(),
            claim: None,
            given_up: false,
            again: Vec::new(),
        };
        match call {
            Call::Next | Call::Identifiers(_) => {}
            Call::Delete(row) => {
                if !pod.published.contains(row) {
                    return broken(
                        1,
                        format!("pod {number} deletes row {row} before its message ids"),
                    );
                }
            }
            Call::Mark(row) => {
                pod.mark_tried.entry(*row).or_insert(at);
                let legitimate = pod.claims.get(row).is_some_and(|claim| {
                    claim.failed_update && (!claim.readable || claim.not_found || claim.refused)
                });
                if !legitimate {
                    return broken(2, format!("pod {number} marks row {row} without a reason"));
                }
            }
            Call::Publish(events) => {
                sent.claim = Some(self.publish_sent(at, number, events)?);
            }
        }
        let pod = self.pods.get_mut(&number).unwrap();
        pod.sent.insert(id, sent);
        Ok(())
    }

    fn publish_sent(
        &mut self,
        at: Duration,
        number: usize,
        events: &[EventOf],
    ) -> Result<u64, Violation> {
        let plan = &self.run.plan;
        let pod = self.pods.get_mut(&number).unwrap();
        let row = events[0].row;
        let Some(claim) = pod.claims.get(&row) else {
            return broken(
                5,
                format!("pod {number} publishes row {row}, which it has not claimed"),
            );
        };
        let lease = plan.lock_expiry * 95 / 100;
        let latest = claim.sent_at + lease.saturating_sub(plan.settings.publish_timeout);
        if at > latest {
            return broken(
                5,
                format!("pod {number} publishes row {row} after {latest:?}"),
            );
        }
        if claim.failed_update || pod.doubtful.contains(&row) {
            pod.may_be_redeliveries += 1;
        }
        if pod.published.contains(&row) {
            return broken(
                6,
                format!("pod {number} publishes row {row} again, all of it"),
            );
        }
        if let Some(event) = events.iter().find(|event| claim.answered.contains(event)) {
            return broken(
                7,
                format!("pod {number} publishes {event:?} again after its message id"),
            );
        }
        let offender = self.run.rows[&row].plan.offender;
        let last = pod.published_last.insert(offender, claim.number);
        if last.is_some_and(|last| last > claim.number) {
            return broken(
                9,
                format!("pod {number} publishes row {row} after a later one of its offender"),
            );
        }
        Ok(claim.number)
    }

    fn accepted(
        &mut self,
        at: Duration,
        number: usize,
        id: u64,
        event: EventOf,
    ) -> Result<(), Violation> {
        if self.accepted.insert(event) {
            return Ok(());
        }
        let pod = self.pods.get_mut(&number).unwrap();
        let sent = pod.sent.get_mut(&id).unwrap();
        sent.again.push(event);
        let claim = &pod.claims[&event.row];
        let overrun = at > claim.sent_at + self.run.plan.lock_expiry * 95 / 100;
        let doubtful = pod.doubtful.contains(&event.row);
        if overrun || doubtful || claim.failed_update || sent.given_up {
            return Ok(());
        }
        broken(
            7,
            format!("{event:?} was redelivered by pod {number} without a cause"),
        )
    }

    fn answered(&mut self, at: Duration, number: usize, id: u64, answer: &Answer) {
        let rows = &self.run.rows;
        let pod = self.pods.get_mut(&number).unwrap();
        let sent = &pod.sent[&id];
        match (&sent.call, answer) {
            (
                _,
                &Answer::Row {
                    row: Some(row),
                    failed_update,
                    readable,
                },
            ) => {
                pod.claims_counted += 1;
                let claim = Claim {
                    number: pod.claims_counted,
                    sent_at: sent.at,
                    answered_at: at,
                    failed_update,
                    readable,
                    not_found: false,
                    refused: false,
                    answered: BTreeSet::new(),
                };
                pod.claims.insert(row, claim);
                // Rows that were not marked do not count.
                pod.mark_tried.remove(&row);
            }
            (Call::Identifiers(offender), Answer::NotFound) => {
                for (row, claim) in &mut pod.claims {
                    let same = rows[row].offender_id() == *offender;
                    claim.not_found |= same && sent.at >= claim.answered_at;
                }
            }
            (Call::Publish(events), Answer::Events(answers)) => {
                let row = events[0].row;
                if answers.len() < events.len() {
                    pod.doubtful.insert(row);
                }
                let claim = pod.claims.get_mut(&row).unwrap();
                if at >= claim.sent_at + self.run.plan.lock_expiry * 95 / 100 {
                    pod.may_be_redeliveries += 1;
                }
                for (event, answer) in events.iter().zip(answers) {
                    match answer {
                        Ok(()) => {
                            claim.answered.insert(*event);
                            if sent.again.contains(event) {
                                pod.redelivered.insert((row, sent.claim.unwrap()));
                            }
                        }
                        Err(CallErrorKind::Refused) => claim.refused = true,
                        Err(_) => {}
                    }
                }
                if claim.answered.len() == rows[&row].events {
                    pod.published.insert(row);
                }
            }
            (Call::Publish(events), Answer::Failed(CallErrorKind::AnswerLost)) => {
                pod.doubtful.insert(events[0].row);
            }
            (Call::Publish(events), Answer::Failed(CallErrorKind::Refused)) => {
                pod.claims.get_mut(&events[0].row).unwrap().refused = true;
            }
            (Call::Mark(row), Answer::Done) => {
                let tried = pod.mark_tried.remove(row).unwrap_or(at);
                pod.marked.insert(*row, tried);
            }
            _ => {}
        }
    }

    fn ended(&mut self, number: usize, counted: u64, most_held: i64) -> Result<(), Violation> {
        let settings = &self.run.plan.settings;
        let pod = &self.pods[&number];
        let seen = pod.redelivered.len();
        if counted < seen as u64 {
            return broken(
                7,
                format!("pod {number} redelivered {seen} rows and counted {counted}"),
            );
        }
        // A pod may be killed after it has counted a publish, and before it sends that.
        if counted > pod.may_be_redeliveries && !pod.is_killed {
            let most = pod.may_be_redeliveries;
            return broken(
                7,
                format!("pod {number} counted {counted} redeliveries, but may count {most}"),
            );
        }
        if usize::try_from(most_held).unwrap() > self::most_held(settings) {
            return broken(4, format!("pod {number} held {most_held} rows"));
        }
        let mut marked: Vec<Duration> = pod.marked.values().copied().collect();
        marked.sort();
        for window in marked.windows(settings.brake_limit + 1) {
            let length = window[settings.brake_limit].saturating_sub(window[0]);
            if length < settings.brake_window {
                return broken(
                    8,
                    format!("pod {number} marked too many rows in {length:?}"),
                );
            }
        }
        Ok(())
    }
}
