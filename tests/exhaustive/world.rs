//! The world around two pods: community-api's table with its lock rules, the topic, and the clock.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use probation_offender_events::config::PollerSettings;
use probation_offender_events::decision::Known;
use probation_offender_events::event::Identifiers;
use probation_offender_events::offender_update::{ChangeId, ClaimedRow, OffenderId};
use probation_offender_events::outcome::Step;
use probation_offender_events::poller::batch::keep_unaccepted;
use probation_offender_events::ports::{CallError, CallErrorKind};
use tokio::time::Instant;

pub const LOCK: Duration = Duration::from_mins(10);
pub const LEASE: Duration = Duration::from_secs(570);
/// Any call may take this long.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// What is wrong with a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Good,
    Unreadable,
    /// Identifiers always answer 404.
    Invisible,
    /// The topic refuses one of its two messages.
    Refused,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    Failed,
    /// It takes effect, and its answer is lost.
    AnswerLost,
    /// It takes no effect, and the pod cannot know.
    Vanished,
    /// The topic throttles the first message.
    Throttled,
    /// Once, the offender is not found, or the messages are refused.
    Denied,
}

impl Fate {
    /// The ways in which a call can go wrong.
    pub fn failures(step: Step) -> &'static [Self] {
        match step {
            Step::Identifiers => &[Self::Failed, Self::Denied],
            Step::Publish => &[
                Self::Failed,
                Self::AnswerLost,
                Self::Vanished,
                Self::Throttled,
                Self::Denied,
            ],
            Step::Delete | Step::MarkAsFailed => &[Self::Failed, Self::AnswerLost],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    NotYet,
    Created,
    InProgress(Instant),
    Deleted,
    Failed,
}

/// A row of OFFENDER_DELTA and its events.
#[derive(Clone)]
pub struct Row {
    pub offender: OffenderId,
    record: i64,
    kind: Kind,
    /// As it is claimed first, and when it comes back.
    pub claimed: [ClaimedRow; 2],
    pub change: Option<ChangeId>,
    /// The number of its events.
    pub events: usize,
    found: Known,
}

impl Row {
    fn new(id: usize, offender: i64, record: i64, kind: Kind) -> Self {
        let is_readable = kind != Kind::Unreadable;
        let read = |failed_update| {
            let row = serde_json::json!({
                "offenderDeltaId": id, "offenderId": offender, "action": "UPSERT", "sourceRecordId": record,
                "dateChanged": if is_readable { "2020-07-19T13:56:43" } else { "" },
                "sourceTable": if record == 2 { "CONTACT" } else { "ALIAS" },
                "failedUpdate": failed_update,
            });
            ClaimedRow::from_json(row.to_string().as_bytes()).unwrap()
        };
        let claimed = [false, true].map(|failed_update| read(failed_update).unwrap());
        let identifiers =
            Identifiers::from_json(br#"{"offenderId":1,"primaryIdentifiers":{"crn":"X1"}}"#);
        Self {
            offender: OffenderId(offender),
            record,
            kind,
            change: claimed[0].change_id(),
            claimed,
            events: if record == 2 { 1 } else { 2 },
            found: Known::Found(identifiers.unwrap()),
        }
    }
}

/// What never changes.
pub struct Setup {
    pub settings: PollerSettings,
    pub rows: [Row; 3],
}

impl Hash for Setup {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What changes outside of the pods.
#[derive(Clone, Hash)]
pub struct World {
    pub setup: &'static Setup,
    pub now: Instant,
    pub table: [Status; 3],
    /// Which of its events each row has on the topic, one bit per event.
    pub on_topic: [u8; 3],
    /// Whether an event of the row came to the topic again, and whether a pod has counted that.
    pub repeated: [bool; 3],
    pub counted: [bool; 3],
    /// How many calls may still fail, get no answer or a wrong one.
    pub failures: u8,
    /// How many steps of the clock may still be made while there is something to do.
    pub jumps: u8,
    /// How many pods may still die or be stopped.
    pub ends: u8,
}

impl World {
    pub fn new(setup: Setup, failures: u8, jumps: u8, ends: u8) -> Self {
        Self {
            setup: Box::leak(Box::new(setup)),
            now: Instant::now(),
            table: [Status::Created, Status::Created, Status::NotYet],
            on_topic: [0; 3],
            repeated: [false; 3],
            counted: [false; 3],
            failures,
            jumps,
            ends,
        }
    }

    /// What `nextUpdate` reads: the oldest row that no one has claimed, or else one whose lock is over.
    pub fn oldest(&self) -> Option<usize> {
        let is_over =
            |&status: &_| matches!(status, Status::InProgress(at) if at + LOCK <= self.now);
        let created = |&status: &_| status == Status::Created;
        let created = self.table.iter().position(created);
        created.or_else(|| self.table.iter().position(is_over))
    }

    /// When the next lock is over.
    pub fn next_unlock(&self) -> Option<Instant> {
        let locks = self.table.iter().filter_map(|status| match status {
            Status::InProgress(at) => Some(*at + LOCK),
            _ => None,
        });
        locks.filter(|&at| at > self.now).min()
    }

    /// Locks a row as it was read. The result is whether it was claimed before; `None` if the race is lost.
    pub fn lock(&mut self, row: usize, read: Status) -> Option<bool> {
        if self.table[row] != read {
            return None;
        }
        let record = self.setup.rows[row].record;
        for (other, status) in self.table.iter_mut().enumerate() {
            let is_duplicate = self.setup.rows[other].record == record && *status != Status::NotYet;
            if is_duplicate && read == Status::Created {
                *status = Status::Deleted;
            }
        }
        self.table[row] = Status::InProgress(self.now);
        Some(read != Status::Created)
    }

    /// Makes a call. `rest` is what a publish has to publish, and then what was not accepted of it.
    pub fn call(
        &mut self,
        (row, step): (usize, Step),
        rest: &mut Vec<usize>,
        fate: Fate,
    ) -> Result<Known, CallErrorKind> {
        let Row { kind, found, .. } = &self.setup.rows[row];
        let takes_effect = !matches!(fate, Fate::Failed | Fate::Vanished);
        let failure = match fate {
            Fate::Failed => Err(CallErrorKind::Unavailable),
            Fate::AnswerLost | Fate::Vanished => Err(CallErrorKind::AnswerLost),
            _ => Ok(()),
        };
        match step {
            Step::Identifiers if *kind == Kind::Invisible || fate == Fate::Denied => {
                failure.map(|()| Known::NotFound)
            }
            Step::Identifiers => failure.map(|()| found.clone()),
            Step::Publish => {
                let answer = |event: &usize| match (fate, kind, event) {
                    (Fate::Throttled, _, 0) => Err(CallErrorKind::Contended),
                    (Fate::Denied, _, _) | (_, Kind::Refused, 1) => Err(CallErrorKind::Refused),
                    _ => Ok(()),
                };
                let answers: Vec<_> = rest.iter().map(answer).collect();
                for (event, answer) in rest.iter().zip(&answers) {
                    let accepted = u8::from(takes_effect && answer.is_ok()) << event;
                    self.repeated[row] |= self.on_topic[row] & accepted != 0;
                    self.on_topic[row] |= accepted;
                }
                failure?;
                let error = |kind| CallError::new(kind, "");
                let answers = answers.into_iter().map(|answer| answer.map_err(error));
                let error = keep_unaccepted(rest, answers.collect());
                error.map_or(Ok(Known::Published), |error| Err(error.kind))
            }
            Step::Delete | Step::MarkAsFailed => {
                let is_there = matches!(self.table[row], Status::Created | Status::InProgress(_));
                if takes_effect && is_there {
                    self.table[row] = match step {
                        Step::Delete => Status::Deleted,
                        _ => Status::Failed,
                    };
                }
                failure.map(|()| Known::Published)
            }
        }
    }
}

impl Setup {
    pub fn new(rows: [(i64, i64, Kind); 3], max_in_flight: usize) -> Self {
        let row = |id: usize| Row::new(id, rows[id].0, rows[id].1, rows[id].2);
        let settings = PollerSettings {
            fixed_delay: TIMEOUT,
            max_in_flight,
            held_limit: 2,
            lock_expiry: LOCK,
            call_timeout: TIMEOUT,
            publish_timeout: TIMEOUT,
            claim_timeout: TIMEOUT,
            brake_limit: 1,
            brake_window: LOCK,
            event_options: Vec::new(),
            grace_period: TIMEOUT,
        };
        let rows = [0, 1, 2].map(row);
        Self { settings, rows }
    }

    /// Whether all that is left to publish is refused.
    pub fn refuses(&self, row: usize, rest: &[usize], fate: Fate) -> bool {
        fate == Fate::Denied || self.rows[row].kind == Kind::Refused && rest == [1]
    }
}
