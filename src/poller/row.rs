//! The path of one claimed row: identifiers, publish, delete.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Pod;
use super::batch::keep_unaccepted;
use super::held::HeldRow;
use super::lanes::InLane;
use super::lease::Lease;
use super::retry::{Attempts, Retry, Stopped};
use super::row_log;
use crate::decision::{Known, Next, next};
use crate::event::{Event, Identifiers, event_type_of};
use crate::insights::Operation;
use crate::offender_update::{ChangeId, ClaimedRow};
use crate::outcome::{Outcome, Reason, RedeliveryCause, Step};
use crate::ports::{Topic, Updates};

pub(super) struct Row<U, T> {
    pub pod: Arc<Pod<U, T>>,
    pub claimed: ClaimedRow,
    /// The identity of the change. `None` if the row is unreadable.
    pub change: Option<ChangeId>,
    pub lease: Lease,
    pub held: HeldRow,
    /// Its turn among the rows of its offender. A row that will not be published has none.
    pub lane: Option<InLane>,
    /// Why the row was left locked or marked as permanently failed, if that is known.
    pub cause: Option<String>,
}

impl<U: Updates, T: Topic> Row<U, T> {
    /// Works on the row until it is settled or left: its turn first, then its place, then its calls.
    ///
    /// A row that waits for its turn has no place, so it never keeps others from being worked on.
    pub async fn work(mut self) {
        if let Some(lane) = self.lane.as_mut().filter(|lane| lane.is_behind_another()) {
            self.held.give_place_back();
            lane.turn().await;
            self.held.take_place().await;
        }
        let started = Instant::now();
        let outcome = self.settle().await.unwrap_or_else(Outcome::LeftLocked);
        self.report(outcome, started);
        if !matches!(outcome, Outcome::LeftLocked(_)) {
            self.held.settle();
        }
    }

    /// Makes the calls that [`next`] asks for, until the row is settled or has to be left.
    async fn settle(&mut self) -> Result<Outcome, Reason> {
        let was_published = self.pod.has_published(self.change, self.lease);
        let mut known = if was_published {
            Known::Published
        } else {
            Known::Claimed
        };
        loop {
            known = match next(&self.claimed, &known, &self.pod.settings.event_options) {
                Next::Identify => self.identify().await?,
                Next::Publish(events) => self.publish(events, &known).await?,
                Next::Delete => {
                    self.delete().await?;
                    return Ok(if was_published {
                        Outcome::DeletedAgain
                    } else {
                        Outcome::Published
                    });
                }
                Next::Mark => {
                    self.mark_as_failed().await?;
                    return Ok(Outcome::PermanentlyFailed);
                }
                Next::Leave(reason) => return Err(reason),
            };
        }
    }

    async fn identify(&mut self) -> Result<Known, Reason> {
        let ClaimedRow::Update(update) = &self.claimed else {
            return Err(Reason::Unreadable);
        };
        let offender = update.offender_id;
        let pod = self.pod.clone();
        let ask = |_| pod.updates.identifiers(offender);
        let found = self.retry().run(Step::Identifiers, ask).await;
        match found {
            Ok(Some(identifiers)) => Ok(Known::Found(identifiers)),
            Ok(None) => {
                self.cause = Some("identifiers answered 404".to_owned());
                Ok(Known::NotFound)
            }
            Err(stopped) => Err(self.left(stopped)),
        }
    }

    /// Publishes all events of the row, and repeats only those that the topic has not accepted.
    async fn publish(&mut self, events: Vec<Event>, known: &Known) -> Result<Known, Reason> {
        let pod = self.pod.clone();
        let was_claimed_before = self.claimed.failed_update();
        let unaccepted = Mutex::new(events);
        let attempt = async |attempts: Attempts| {
            if let Some(cause) = attempts.redelivery(was_claimed_before) {
                pod.metrics.redelivered.of(cause).inc();
            }
            let events = unaccepted.lock().clone();
            let answers = pod.topic.publish(&events).await?;
            let error = keep_unaccepted(&mut unaccepted.lock(), answers);
            let accepted = events.len() - unaccepted.lock().len();
            pod.metrics.published.inc_by(accepted as u64);
            error.map_or(Ok(()), Err)
        };
        let published = self.retry().run(Step::Publish, attempt).await;
        match published {
            Ok(()) => {
                self.published(known);
                Ok(Known::Published)
            }
            Err((Reason::Refused, error)) => {
                self.cause = error.map(|error| error.cause);
                Ok(Known::Refused)
            }
            Err(stopped) => Err(self.left(stopped)),
        }
    }

    /// Records that the topic has accepted every event, so that the row only has to be deleted.
    fn published(&self, known: &Known) {
        if self.lease.remaining(Instant::now()).is_zero() {
            let metrics = &self.pod.metrics;
            metrics.lease_overruns.inc();
            metrics.redelivered.of(RedeliveryCause::LeaseOverrun).inc();
        }
        let ClaimedRow::Update(update) = &self.claimed else {
            return;
        };
        if let Some(change) = self.change {
            self.pod.published.lock().remember(change);
        }
        let age = update.date_changed.age(Timestamp::now());
        self.pod.metrics.observe_age(age);
        if let Known::Found(Identifiers { crn, .. }) = known {
            Operation::current().published(update, crn, age);
        }
    }

    async fn delete(&mut self) -> Result<(), Reason> {
        // The next row of the offender need not wait for the delete.
        self.lane = None;
        self.settling_call(Step::Delete).await?;
        if let Some(change) = self.change {
            self.pod.published.lock().deleted(change, Instant::now());
        }
        Ok(())
    }

    /// Marks the row as permanently failed, unless the brake is on.
    async fn mark_as_failed(&mut self) -> Result<(), Reason> {
        self.lane = None;
        if !self.pod.may_mark_a_row(Instant::now()) {
            return Err(Reason::Brake);
        }
        self.settling_call(Step::MarkAsFailed).await
    }

    async fn settling_call(&mut self, step: Step) -> Result<(), Reason> {
        // A row without an id can be neither marked nor deleted.
        let row = self.claimed.offender_delta_id().ok_or(Reason::Unreadable)?;
        let pod = self.pod.clone();
        let done = match step {
            Step::MarkAsFailed => {
                let mark = |_| pod.updates.mark_as_failed(row);
                self.retry().run(step, mark).await
            }
            _ => self.retry().run(step, |_| pod.updates.delete(row)).await,
        };
        done.map_err(|stopped| self.left(stopped))
    }

    fn retry(&mut self) -> Retry<'_> {
        Retry {
            held: &mut self.held,
            lease: self.lease,
            settings: &self.pod.settings,
            stopping: &self.pod.stopping,
        }
    }

    fn left(&mut self, (reason, error): Stopped) -> Reason {
        let no_attempt = || "too little of the lease was left for the first attempt".to_owned();
        self.cause = Some(error.map_or_else(no_attempt, |error| error.cause));
        reason
    }

    fn report(&self, outcome: Outcome, started: Instant) {
        let metrics = &self.pod.metrics;
        let operation = Operation::current();
        match outcome {
            Outcome::LeftLocked(reason) => {
                metrics.left_locked.of(reason).inc();
                metrics.failed.inc_by(u64::from(reason.is_second_chance()));
            }
            Outcome::PermanentlyFailed => {
                metrics.settled.inc();
                metrics.permanently_failed.inc();
                operation.permanently_failed(&self.claimed);
            }
            Outcome::Published | Outcome::DeletedAgain => metrics.settled.inc(),
        }
        let cause = self.cause.as_deref();
        let event_type = self.event_type();
        let event_type = event_type.as_deref();
        let took = started.elapsed();
        row_log::log(&self.claimed, event_type, outcome, cause, took, self.lease);
        operation.row_ended(&self.claimed, event_type, outcome);
    }

    fn event_type(&self) -> Option<String> {
        match &self.claimed {
            ClaimedRow::Update(update) => {
                Some(event_type_of(update, &self.pod.settings.event_options).0)
            }
            ClaimedRow::Unreadable(_) => None,
        }
    }
}
