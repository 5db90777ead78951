//! The path of one claimed row: identifiers, decision, publish, delete. Top to bottom, this is what the service is for.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::attempts::{Attempts, PATIENCE, Stopped};
use super::claim_gate::Step;
use super::lease::Lease;
use super::order::{End, Turn};
use super::outcome::{Outcome, Reason};
use super::ports::{CallError, CallErrorKind, Topic, Updates};
use super::published::Publication;
use crate::decision::{Decision, Verdict, decide, second_chance};
use crate::event::{Event, Identifiers};
use crate::insights::Operation;
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId, OffenderUpdate};

/// So long, the rows of a single offender that fill all places wait for each other, if they do not get through.
const STUCK: Duration = Duration::from_secs(2);

/// What is left to do for a row when its turn is over.
enum Rest {
    Delete(Outcome),
    NoEvents {
        verdict: Verdict,
        reason: Reason,
        error: Option<CallError>,
    },
    Left(Reason, Option<CallError>),
}

/// One row in flight.
pub(super) struct RowInFlight<U, T> {
    pub shared: Arc<Shared<U, T>>,
    pub lease: Lease,
    /// Unknown if the row cannot be read.
    pub offender: Option<OffenderId>,
}

impl<U: Updates, T: Topic> RowInFlight<U, T> {
    /// Deals with a claimed row, whatever it takes within its lease.
    pub async fn settle(self, row: ClaimedRow, turn: Option<Turn>) {
        let started = Instant::now();
        let rest = match &row {
            ClaimedRow::Update(update) => self.in_turn(update, turn).await,
            ClaimedRow::Unreadable(row) => Rest::NoEvents {
                verdict: second_chance(row.failed_update),
                reason: Reason::Unreadable,
                error: None,
            },
        };
        let (outcome, error) = self.after_turn(row.offender_delta_id(), rest).await;
        self.remember_if_in_vain(outcome, error.is_some());
        self.report(&row, outcome, error.as_ref(), started.elapsed());
    }

    fn remember_if_in_vain(&self, outcome: Outcome, calls_failed: bool) {
        let Some(offender) = self.offender else {
            return;
        };
        match outcome {
            Outcome::Published => self.shared.tried_in_vain.forget(offender),
            Outcome::LeftLocked(Reason::GaveWay(_) | Reason::LeaseRanOut) if calls_failed => {
                self.shared.tried_in_vain.remember(offender);
            }
            _ => {}
        }
    }

    /// What has to be done in the order of the claims: all up to the publication.
    async fn in_turn(&self, update: &OffenderUpdate, turn: Option<Turn>) -> Rest {
        let Some(mut turn) = turn else {
            return self.publish_or_not(update).await;
        };
        let Some(before) = self.wait_for(update.offender_id, &mut turn).await else {
            return Rest::Left(Reason::GaveWay(Step::Identifiers), None);
        };
        let rest = match before {
            End::Over => self.publish_or_not(update).await,
            // What could not be found out for one row of an offender will not be for the next, which must not keep a
            // place as long to learn it.
            End::OffenderInTrouble if self.remembered(update) != Some(Publication::Certain) => {
                Rest::Left(Reason::GaveWay(Step::Identifiers), None)
            }
            End::OffenderInTrouble => Rest::Delete(Outcome::DeletedAgain),
        };
        turn.end(match rest {
            Rest::Left(Reason::GaveWay(Step::Identifiers), _) => End::OffenderInTrouble,
            _ => End::Over,
        });
        rest
    }

    /// Waits for the row before this one of the same offender. If one offender's rows fill all places and are stuck, and no
    /// other offender is known that could be asked for, they cannot tell whether others would get through: then those in
    /// line make room, one by one, for somebody else's (`None`).
    async fn wait_for(&self, offender: OffenderId, turn: &mut Turn) -> Option<End> {
        let Shared { gate, order, .. } = &*self.shared;
        let alone_and_stuck = || {
            order.offenders() == 1
                && gate.known_offender_besides(offender).is_none()
                && gate.is_stuck(Step::Identifiers, STUCK)
        };
        tokio::select! {
            biased;
            end = turn.come() => Some(end),
            () = gate.place_is_needed(alone_and_stuck) => None,
        }
    }

    async fn publish_or_not(&self, update: &OffenderUpdate) -> Rest {
        let remembered = self.remembered(update);
        if remembered == Some(Publication::Certain) {
            return Rest::Delete(Outcome::DeletedAgain);
        }
        let identifiers = match self.identifiers(update.offender_id).await {
            Ok(identifiers) => identifiers,
            Err(stopped) => return stopped.rest(),
        };
        match decide(update, identifiers.as_ref()) {
            Decision::NoEvents(verdict) => Rest::NoEvents {
                verdict,
                reason: Reason::NotVisible,
                error: None,
            },
            Decision::Publish(events) => match self.publish(update, events, remembered).await {
                Ok(age) => {
                    if let Some(found) = &identifiers {
                        Operation::current().published(update, &found.crn, age);
                    }
                    Rest::Delete(Outcome::Published)
                }
                Err(Stopped::Refused(error)) => Rest::NoEvents {
                    verdict: second_chance(update.failed_update),
                    reason: Reason::Refused,
                    error: Some(error),
                },
                Err(stopped) => stopped.rest(),
            },
        }
    }

    fn remembered(&self, update: &OffenderUpdate) -> Option<Publication> {
        let claimed_at = self.lease.claimed_at();
        self.shared
            .published
            .get(update.offender_delta_id, claimed_at)
    }

    async fn after_turn(
        &self,
        row: Option<OffenderDeltaId>,
        rest: Rest,
    ) -> (Outcome, Option<CallError>) {
        match (rest, row) {
            (Rest::Delete(then), Some(row)) => self.delete(row, then).await,
            (
                Rest::NoEvents {
                    verdict: Verdict::GiveUp,
                    error,
                    ..
                },
                Some(row),
            ) => {
                let (outcome, mark_error) = self.give_up(row).await;
                (outcome, mark_error.or(error))
            }
            (Rest::Left(reason, error) | Rest::NoEvents { reason, error, .. }, _) => {
                (Outcome::LeftLocked(reason), error)
            }
            // A published row has an id.
            (Rest::Delete(then), None) => (then, None),
        }
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, Stopped> {
        let mut attempts = self.attempts(Step::Identifiers);
        loop {
            let asked = attempts.call(|| async {
                tokio::select! {
                    biased;
                    answer = self.shared.updates.identifiers(offender) => answer,
                    never = self.ask_meanwhile(offender) => match never {},
                }
            });
            match asked.await? {
                Ok(identifiers) => {
                    attempts.got_through();
                    self.shared.gate.remember_offender(offender);
                    return Ok(identifiers);
                }
                Err(error) => {
                    let busy = matches!(
                        error.kind,
                        CallErrorKind::Contended | CallErrorKind::Unauthorised
                    );
                    if !busy && error.retry_after.is_none() {
                        self.ask_for_a_known_offender(offender, attempts.started())
                            .await;
                    }
                    attempts.failed(error).await?;
                }
            }
        }
    }

    /// A call that takes long may hang for this offender only.
    async fn ask_meanwhile(&self, offender: OffenderId) -> Infallible {
        let started = Instant::now();
        sleep(PATIENCE + Duration::from_millis(50)).await;
        self.ask_for_a_known_offender(offender, started + PATIENCE)
            .await;
        std::future::pending().await
    }

    /// Finds out whether only this offender is in trouble, by asking for one that was found lately, unless somebody has got
    /// through since.
    async fn ask_for_a_known_offender(&self, in_trouble: OffenderId, since: Instant) {
        let gate = &self.shared.gate;
        if !gate.through_since(Step::Identifiers, since)
            && let Some(known) = gate.known_offender_besides(in_trouble)
        {
            let started = Instant::now();
            if let Ok(Ok(_)) = timeout(PATIENCE, self.shared.updates.identifiers(known)).await {
                gate.got_through(Step::Identifiers, started);
            }
        }
    }

    /// Publishes all events of a row, repeating only those that the topic has not accepted. The answer is the age of the
    /// change.
    async fn publish(
        &self,
        update: &OffenderUpdate,
        mut events: Vec<Event>,
        remembered: Option<Publication>,
    ) -> Result<Duration, Stopped> {
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
        let age = update.date_changed.age(jiff::Timestamp::now());
        self.shared.metrics.observe_age(age);
        Ok(age)
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

    /// Marks a row as permanently failed, unless the brake is on.
    async fn give_up(&self, row: OffenderDeltaId) -> (Outcome, Option<CallError>) {
        let asked_at = Instant::now();
        if !self.shared.ask_brake(asked_at) {
            return (Outcome::LeftLocked(Reason::Brake), None);
        }
        let mark = || self.shared.updates.mark_as_failed(row);
        match self.until_through(Step::MarkAsFailed, mark).await {
            Ok(()) => {
                // It may have been published in part before its other message was refused.
                self.shared.published.forget(row);
                (Outcome::PermanentlyFailed, None)
            }
            Err(stopped) => {
                self.shared.give_back_brake(asked_at);
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
        let Shared {
            gate,
            settings,
            tried_in_vain,
            ..
        } = &*self.shared;
        let was_tried_in_vain = self
            .offender
            .is_some_and(|offender| tried_in_vain.contains(offender));
        Attempts::new(gate, settings, self.lease, step, was_tried_in_vain)
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
            Outcome::PermanentlyFailed => {
                metrics.permanently_failed.inc();
                Operation::current().permanently_failed(row);
            }
            Outcome::Published | Outcome::DeletedAgain => {}
        }
        super::row_log::log(row, outcome, error, took, self.lease);
        let is_settled = matches!(outcome, Outcome::Published | Outcome::DeletedAgain);
        let cause = error.map(|error| error.cause.as_str());
        Operation::current().row_ended(row, outcome.name(), is_settled, cause);
    }
}

/// Takes out of `events` what was accepted. The answer is the most telling error of the rest: one whose answer was lost, since
/// that event may be on the topic; a refusal only if all of the rest is refused, since whatever may still be accepted has
/// to be tried before the row is given up.
fn keep_unaccepted(
    events: &mut Vec<Event>,
    answers: Vec<Result<(), CallError>>,
) -> Option<CallError> {
    let mut answers = answers.into_iter();
    let mut errors = Vec::new();
    events.retain(|_| {
        let unanswered = || CallError::new(CallErrorKind::AnswerLost, "no answer for an event");
        let answer = answers.next().unwrap_or_else(|| Err(unanswered()));
        answer.map_err(|error| errors.push(error)).is_err()
    });
    errors.into_iter().max_by_key(|error| match error.kind {
        CallErrorKind::AnswerLost => 2,
        CallErrorKind::Refused => 0,
        _ => 1,
    })
}

impl Stopped {
    fn reason(self) -> (Reason, Option<CallError>) {
        match self {
            Self::Refused(error) => (Reason::Refused, Some(error)),
            Self::Left(reason, error) => (reason, error),
        }
    }

    fn rest(self) -> Rest {
        let (reason, error) = self.reason();
        Rest::Left(reason, error)
    }

    fn outcome(self) -> (Outcome, Option<CallError>) {
        let (reason, error) = self.reason();
        (Outcome::LeftLocked(reason), error)
    }
}
