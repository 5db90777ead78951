//! The path of one claimed row: identifiers, decision, publish, delete. Top to bottom, this is what the service is for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Shared;
use super::attempts::{Attempts, PATIENCE, Stopped};
use super::claim_gate::Step;
use super::lease::Lease;
use super::order::{End, Turn};
use super::ports::{CallError, CallErrorKind, Topic, Updates};
use super::published::Publication;
use crate::decision::{Decision, Verdict, decide, second_chance};
use crate::event::{Event, Identifiers};
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId, OffenderUpdate};

/// So long, the rows of a single offender that fill all places wait for each other, if they do not get through.
const STUCK: Duration = Duration::from_secs(2);

/// How a row's time in flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its events are on the topic and the row is deleted.
    Published,
    /// Its events had been on the topic before, the row is deleted now.
    DeletedAgain,
    /// Marked as permanently failed.
    PermanentlyFailed,
    /// Left locked; it comes back when the lock runs out.
    LeftLocked(Reason),
}

/// Why a row was left locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The offender is not visible to community-api; the row gets a second chance.
    NotVisible,
    /// The row cannot be read; it gets a second chance.
    Unreadable,
    /// The topic refuses a message; the row gets a second chance.
    Refused,
    /// It should be given up for good, but too many rows should.
    Brake,
    /// Its calls of this step kept failing while other rows got through.
    GaveWay(Step),
    /// There is not enough of the lease left for another attempt.
    LeaseRanOut,
}

impl Outcome {
    /// The outcome's name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::DeletedAgain => "deleted_again",
            Self::PermanentlyFailed => "permanently_failed",
            Self::LeftLocked(reason) => reason.name(),
        }
    }
}

impl Reason {
    /// The reason's name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotVisible => "not_visible",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Brake => "brake",
            Self::GaveWay(_) => "gave_way",
            Self::LeaseRanOut => "lease_ran_out",
        }
    }

    fn is_second_chance(self) -> bool {
        matches!(self, Self::NotVisible | Self::Unreadable | Self::Refused)
    }
}

/// One row in flight.
pub(super) struct RowInFlight<U, T> {
    pub shared: Arc<Shared<U, T>>,
    pub lease: Lease,
}

impl<U: Updates, T: Topic> RowInFlight<U, T> {
    /// Deals with a claimed row, whatever it takes within its lease.
    pub async fn settle(self, row: ClaimedRow, mut turn: Option<Turn>) {
        let started = Instant::now();
        let before = match &mut turn {
            Some(turn) => self.wait_for(turn).await,
            None => End::Over,
        };
        let (outcome, error) = match &row {
            ClaimedRow::Update(update) => self.process(update, before).await,
            ClaimedRow::Unreadable(row) => {
                let verdict = second_chance(row.failed_update);
                self.carry_out(verdict, row.offender_delta_id, Reason::Unreadable)
                    .await
            }
        };
        if let Some(turn) = turn {
            turn.end(match outcome {
                Outcome::LeftLocked(Reason::GaveWay(Step::Identifiers)) => End::OffenderInTrouble,
                _ => End::Over,
            });
        }
        self.report(&row, outcome, error.as_ref(), started.elapsed());
    }

    /// Waits for the row before this one of the same offender. If one offender's rows fill all places and are stuck, they
    /// cannot tell whether others would get through: then those in line make room, one by one, for somebody else's.
    async fn wait_for(&self, turn: &mut Turn) -> End {
        let Shared { gate, order, .. } = &*self.shared;
        let alone_and_stuck = || order.offenders() == 1 && gate.is_stuck(Step::Identifiers, STUCK);
        tokio::select! {
            biased;
            end = turn.come() => end,
            () = gate.place_is_needed(alone_and_stuck) => End::OffenderInTrouble,
        }
    }

    async fn process(&self, update: &OffenderUpdate, before: End) -> (Outcome, Option<CallError>) {
        let row = update.offender_delta_id;
        let remembered = self.shared.published.get(row);
        if remembered == Some(Publication::Certain) {
            return self.delete(row, Outcome::DeletedAgain).await;
        }
        if before == End::OffenderInTrouble {
            // What could not be found out for one row of an offender will not be for the next, which must not keep a
            // place as long to learn it.
            return (
                Outcome::LeftLocked(Reason::GaveWay(Step::Identifiers)),
                None,
            );
        }
        let identifiers = match self.identifiers(update.offender_id).await {
            Ok(identifiers) => identifiers,
            Err(stopped) => return stopped.outcome(),
        };
        match decide(update, identifiers.as_ref()) {
            Decision::NoEvents(verdict) => {
                self.carry_out(verdict, Some(row), Reason::NotVisible).await
            }
            Decision::Publish(events) => match self.publish(update, events, remembered).await {
                Ok(()) => self.delete(row, Outcome::Published).await,
                Err(Stopped::Refused(error)) => {
                    let verdict = second_chance(update.failed_update);
                    let (outcome, _) = self.carry_out(verdict, Some(row), Reason::Refused).await;
                    (outcome, Some(error))
                }
                Err(stopped) => stopped.outcome(),
            },
        }
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, Stopped> {
        let mut attempts = self.attempts(Step::Identifiers);
        loop {
            match attempts
                .call(|| self.shared.updates.identifiers(offender))
                .await?
            {
                Ok(identifiers) => {
                    attempts.got_through();
                    self.shared.gate.remember_offender(offender);
                    return Ok(identifiers);
                }
                Err(error) => {
                    self.ask_for_a_known_offender(offender, attempts.started(), &error)
                        .await;
                    attempts.failed(error).await?;
                }
            }
        }
    }

    /// Finds out whether only this offender is in trouble, by asking for one that was found lately; not if somebody has
    /// got through meanwhile, nor if the other side wants to be asked less.
    async fn ask_for_a_known_offender(
        &self,
        in_trouble: OffenderId,
        since: Instant,
        error: &CallError,
    ) {
        let gate = &self.shared.gate;
        let welcome = error.retry_after.is_none()
            && !matches!(
                error.kind,
                CallErrorKind::Contended | CallErrorKind::Unauthorised
            );
        if welcome
            && !gate.through_since(Step::Identifiers, since)
            && let Some(known) = gate.known_offender_besides(in_trouble)
        {
            let started = Instant::now();
            if let Ok(Ok(_)) = timeout(PATIENCE, self.shared.updates.identifiers(known)).await {
                gate.got_through(Step::Identifiers, started);
            }
        }
    }

    /// Publishes all events of a row, repeating only those that the topic has not accepted.
    async fn publish(
        &self,
        update: &OffenderUpdate,
        mut events: Vec<Event>,
        remembered: Option<Publication>,
    ) -> Result<(), Stopped> {
        let row = update.offender_delta_id;
        let count = events.len();
        let mut answer_lost = remembered == Some(Publication::Possible);
        let mut redelivery_counted = false;
        let mut attempts = self.attempts(Step::Publish);
        while !events.is_empty() {
            let before = events.len();
            let answers = attempts.call(|| {
                // From here on the events may be on the topic, even if this task ends in the middle of the call.
                self.shared.published.remember(row, Publication::Possible);
                self.shared.topic.publish(&events)
            });
            let error = match answers.await? {
                Ok(answers) => keep_unaccepted(&mut events, answers),
                Err(error) => Some(error),
            };
            let accepted = before - events.len();
            if accepted > 0 {
                self.shared.metrics.published.inc_by(accepted as u64);
                redelivery_counted =
                    redelivery_counted || self.count_redelivery(update, answer_lost);
            }
            if let Some(error) = error {
                answer_lost |= error.kind == CallErrorKind::AnswerLost;
                if !answer_lost && events.len() == count {
                    self.shared.published.forget(row);
                }
                attempts.failed(error).await?;
            }
        }
        attempts.got_through();
        self.shared.published.remember(row, Publication::Certain);
        self.shared
            .metrics
            .observe_age(update.date_changed.age(jiff::Timestamp::now()));
        Ok(())
    }

    /// Counts that events which the topic has just accepted may have been there before, or may come there again.
    fn count_redelivery(&self, update: &OffenderUpdate, answer_lost: bool) -> bool {
        let metrics = &self.shared.metrics;
        let overrun = self.lease.remaining().is_zero();
        metrics.lease_overruns.inc_by(u64::from(overrun));
        let cause = match (answer_lost, update.failed_update, overrun) {
            (true, ..) => "answer_lost",
            (_, true, _) => "claimed_again",
            (.., true) => "lease_overrun",
            (false, false, false) => return false,
        };
        metrics.redelivered.with_label_values(&[cause]).inc();
        true
    }

    async fn delete(&self, row: OffenderDeltaId, then: Outcome) -> (Outcome, Option<CallError>) {
        match self
            .until_through(Step::Delete, || self.shared.updates.delete(row))
            .await
        {
            Ok(()) => {
                self.shared.published.deleted(row);
                (then, None)
            }
            Err(stopped) => stopped.outcome(),
        }
    }

    /// Leaves a row of which no events can be made, or gives it up unless the brake is on.
    async fn carry_out(
        &self,
        verdict: Verdict,
        row: Option<OffenderDeltaId>,
        reason: Reason,
    ) -> (Outcome, Option<CallError>) {
        let (Verdict::GiveUp, Some(row)) = (verdict, row) else {
            return (Outcome::LeftLocked(reason), None);
        };
        if !self.shared.ask_brake() {
            return (Outcome::LeftLocked(Reason::Brake), None);
        }
        match self
            .until_through(Step::MarkAsFailed, || {
                self.shared.updates.mark_as_failed(row)
            })
            .await
        {
            Ok(()) => {
                // It was published in part before its other message was refused.
                self.shared.published.forget(row);
                (Outcome::PermanentlyFailed, None)
            }
            Err(stopped) => {
                self.shared.give_back_brake();
                stopped.outcome()
            }
        }
    }

    async fn until_through<R, F: Future<Output = Result<R, CallError>>>(
        &self,
        step: Step,
        call: impl Fn() -> F,
    ) -> Result<R, Stopped> {
        let mut attempts = self.attempts(step);
        loop {
            match attempts.call(&call).await? {
                Ok(result) => {
                    attempts.got_through();
                    return Ok(result);
                }
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    fn attempts(&self, step: Step) -> Attempts<'_> {
        Attempts::new(&self.shared.gate, &self.shared.settings, self.lease, step)
    }

    fn report(
        &self,
        row: &ClaimedRow,
        outcome: Outcome,
        error: Option<&CallError>,
        took: Duration,
    ) {
        let metrics = &self.shared.metrics;
        match outcome {
            Outcome::LeftLocked(reason) => {
                metrics
                    .left_locked
                    .with_label_values(&[reason.name()])
                    .inc();
                if reason.is_second_chance() {
                    metrics.failed.inc();
                }
            }
            Outcome::PermanentlyFailed => metrics.permanently_failed.inc(),
            Outcome::Published | Outcome::DeletedAgain => {}
        }
        super::row_log::log(row, outcome, error, took, self.lease);
    }
}

/// Takes out of `events` what was accepted. The answer is an error of the rest: a refusal only if all of the rest is refused,
/// since whatever may still be accepted has to be tried before the row is given up.
fn keep_unaccepted(
    events: &mut Vec<Event>,
    answers: Vec<Result<(), CallError>>,
) -> Option<CallError> {
    let mut answers = answers.into_iter();
    let mut telling: Option<CallError> = None;
    events.retain(|_| {
        let unanswered = || {
            Err(CallError::new(
                CallErrorKind::AnswerLost,
                "no answer for an event",
            ))
        };
        let Err(error) = answers.next().unwrap_or_else(unanswered) else {
            return false;
        };
        if telling
            .as_ref()
            .is_none_or(|error| error.kind == CallErrorKind::Refused)
        {
            telling = Some(error);
        }
        true
    });
    telling
}

impl Stopped {
    fn outcome(self) -> (Outcome, Option<CallError>) {
        match self {
            Self::Refused(error) => (Outcome::LeftLocked(Reason::Refused), Some(error)),
            Self::Left(reason, error) => (Outcome::LeftLocked(reason), error),
        }
    }
}
