//! The path of one claimed row: identifiers, decision, publish, delete. Top to bottom, this is what the service is for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::backoff::Backoff;
use super::claim_gate::Step;
use super::lease::Lease;
use super::order::{End, Turn};
use super::ports::{CallError, CallErrorKind, Topic, Updates};
use super::published::Publication;
use crate::decision::{Decision, Verdict, decide, second_chance};
use crate::event::{Event, Identifiers};
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId, OffenderUpdate};

/// A row whose calls fail while others get through is left after so many failures, even if its place is not needed.
const TRIES_WHILE_OTHERS_GET_THROUGH: u32 = 6;
/// A call that takes longer than this counts as trouble.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

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

/// Why a step was not completed.
enum Stopped {
    Refused(CallError),
    Left(Reason, Option<CallError>),
}

impl<U: Updates, T: Topic> RowInFlight<U, T> {
    /// Deals with a claimed row, whatever it takes within its lease.
    pub async fn settle(self, row: ClaimedRow, turn: Option<Turn>) {
        let started = Instant::now();
        let before = match turn {
            Some(mut turn) => {
                let end = turn.come().await;
                Some((turn, end))
            }
            None => None,
        };
        let in_trouble = matches!(before, Some((_, End::OffenderInTrouble)));
        let (outcome, error) = match &row {
            ClaimedRow::Update(update) => self.process(update, in_trouble).await,
            ClaimedRow::Unreadable(row) => {
                self.give_up_or_leave(row.offender_delta_id, row.failed_update, Reason::Unreadable)
                    .await
            }
        };
        if let Some((turn, _)) = before {
            turn.end(match outcome {
                Outcome::LeftLocked(Reason::GaveWay(Step::Identifiers)) => End::OffenderInTrouble,
                _ => End::Over,
            });
        }
        self.report(&row, outcome, error.as_ref(), started.elapsed());
    }

    async fn process(
        &self,
        update: &OffenderUpdate,
        offender_in_trouble: bool,
    ) -> (Outcome, Option<CallError>) {
        let row = update.offender_delta_id;
        let remembered = self.shared.published.get(row);
        if remembered == Some(Publication::Certain) {
            return self.delete(row, Outcome::DeletedAgain).await;
        }
        if offender_in_trouble {
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
            Decision::NoEvents(_) => {
                self.give_up_or_leave(Some(row), update.failed_update, Reason::NotVisible)
                    .await
            }
            Decision::Publish(events) => match self.publish(update, events, remembered).await {
                Ok(()) => self.delete(row, Outcome::Published).await,
                Err(Stopped::Refused(error)) => {
                    let (outcome, _) = self
                        .give_up_or_leave(Some(row), update.failed_update, Reason::Refused)
                        .await;
                    (outcome, Some(error))
                }
                Err(stopped) => stopped.outcome(),
            },
        }
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, Stopped> {
        let mut attempts = Attempts::new(self, Step::Identifiers);
        loop {
            match attempts
                .call(|| self.shared.updates.identifiers(offender))
                .await?
            {
                Ok(identifiers) => {
                    self.shared.gate.got_through(Step::Identifiers);
                    self.shared.gate.remember_offender(offender);
                    return Ok(identifiers);
                }
                Err(error) => {
                    if error.kind != CallErrorKind::Unauthorised {
                        self.ask_for_a_known_offender(offender, attempts.started)
                            .await;
                    }
                    attempts.failed(error).await?;
                }
            }
        }
    }

    /// Finds out whether only this offender is in trouble, by asking for one that was found lately, unless somebody has
    /// got through meanwhile.
    async fn ask_for_a_known_offender(&self, in_trouble: OffenderId, since: Instant) {
        let gate = &self.shared.gate;
        if !gate.through_since(Step::Identifiers, since)
            && let Some(known) = gate.known_offender_besides(in_trouble)
            && let Ok(Ok(_)) = timeout(PATIENCE, self.shared.updates.identifiers(known)).await
        {
            gate.got_through(Step::Identifiers);
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
        let mut answer_lost = remembered == Some(Publication::Possible);
        let count = events.len();
        let mut attempts = Attempts::new(self, Step::Publish);
        while !events.is_empty() {
            // From here on the events may be on the topic, even if this task is dropped in the middle of the call.
            self.shared.published.remember(row, Publication::Possible);
            let error = match attempts.call(|| self.shared.topic.publish(&events)).await? {
                Ok(answers) => keep_unaccepted(&mut events, answers),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                answer_lost |= error.kind == CallErrorKind::AnswerLost;
                if !answer_lost && events.len() == count {
                    self.shared.published.forget(row);
                }
                attempts.failed(error).await?;
            }
        }
        self.shared.gate.got_through(Step::Publish);
        self.shared.published.remember(row, Publication::Certain);
        self.count_published(update, count, answer_lost);
        Ok(())
    }

    fn count_published(&self, update: &OffenderUpdate, events: usize, answer_lost: bool) {
        let metrics = &self.shared.metrics;
        metrics.published.inc_by(events as u64);
        metrics.observe_age(update.date_changed.age(jiff::Timestamp::now()));
        let overrun = self.lease.remaining().is_zero();
        if overrun {
            metrics.lease_overruns.inc();
        }
        let cause = if answer_lost {
            "answer_lost"
        } else if update.failed_update {
            "claimed_again"
        } else if overrun {
            "lease_overrun"
        } else {
            return;
        };
        metrics.redelivered.with_label_values(&[cause]).inc();
    }

    async fn delete(&self, row: OffenderDeltaId, then: Outcome) -> (Outcome, Option<CallError>) {
        match self
            .until_through(Step::Settle, || self.shared.updates.delete(row))
            .await
        {
            Ok(()) => {
                self.shared.published.forget(row);
                (then, None)
            }
            Err(stopped) => stopped.outcome(),
        }
    }

    /// The rule for rows of which no events can be made: leave them locked at first, give up on their return unless the
    /// brake is on.
    async fn give_up_or_leave(
        &self,
        row: Option<OffenderDeltaId>,
        failed_update: bool,
        reason: Reason,
    ) -> (Outcome, Option<CallError>) {
        let (Verdict::GiveUp, Some(row)) = (second_chance(failed_update), row) else {
            return (Outcome::LeftLocked(reason), None);
        };
        if !self.shared.ask_brake() {
            return (Outcome::LeftLocked(Reason::Brake), None);
        }
        match self
            .until_through(Step::Settle, || self.shared.updates.mark_as_failed(row))
            .await
        {
            Ok(()) => (Outcome::PermanentlyFailed, None),
            Err(stopped) => stopped.outcome(),
        }
    }

    async fn until_through<R, F: Future<Output = Result<R, CallError>>>(
        &self,
        step: Step,
        call: impl Fn() -> F,
    ) -> Result<R, Stopped> {
        let mut attempts = Attempts::new(self, step);
        loop {
            match attempts.call(&call).await? {
                Ok(result) => {
                    self.shared.gate.got_through(step);
                    return Ok(result);
                }
                Err(error) => attempts.failed(error).await?,
            }
        }
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

/// The attempts at one step of a row, within its lease.
struct Attempts<'a, U, T> {
    row: &'a RowInFlight<U, T>,
    step: Step,
    backoff: Backoff,
    failures: u32,
    /// When the current or last call was started.
    started: Instant,
    in_trouble_since: Option<Instant>,
}

impl<'a, U: Updates, T: Topic> Attempts<'a, U, T> {
    fn new(row: &'a RowInFlight<U, T>, step: Step) -> Self {
        Self {
            row,
            step,
            backoff: Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF),
            failures: 0,
            started: Instant::now(),
            in_trouble_since: None,
        }
    }

    /// Makes one attempt, if the lease allows it: no call that leads to a publish is started with less of the lease left
    /// than the publish may take.
    async fn call<R, F: Future<Output = Result<R, CallError>>>(
        &mut self,
        call: impl Fn() -> F,
    ) -> Result<Result<R, CallError>, Stopped> {
        let limit = self.row.shared.settings.call_timeout;
        let remaining = self.row.lease.remaining();
        if remaining.is_zero() || self.step != Step::Settle && remaining < limit {
            return Err(Stopped::Left(Reason::LeaseRanOut, None));
        }
        self.started = Instant::now();
        let in_trouble_since = self.in_trouble_since.unwrap_or(self.started);
        let place_is_needed = async {
            sleep(PATIENCE).await;
            self.row
                .shared
                .gate
                .place_is_needed(self.step, in_trouble_since)
                .await;
        };
        tokio::select! {
            biased;
            answer = timeout(limit, call()) => Ok(answer.unwrap_or_else(|_| Err(too_slow(limit)))),
            () = place_is_needed => Err(Stopped::Left(Reason::GaveWay(self.step), Some(too_slow(PATIENCE)))),
        }
    }

    /// Notes that the attempt failed, and waits for the next one, if there should be one.
    async fn failed(&mut self, error: CallError) -> Result<(), Stopped> {
        if error.kind == CallErrorKind::Refused {
            return Err(Stopped::Refused(error));
        }
        tracing::debug!(step = ?self.step, cause = %error, "call failed");
        let gate = &self.row.shared.gate;
        gate.failed(
            self.step,
            self.started,
            self.in_trouble_since.is_none(),
            &error,
        );
        let in_trouble_since = *self.in_trouble_since.get_or_insert(self.started);
        if error.kind != CallErrorKind::Contended {
            self.failures += 1;
        }
        if self.failures >= TRIES_WHILE_OTHERS_GET_THROUGH
            && gate.through_since(self.step, in_trouble_since)
        {
            return Err(Stopped::Left(Reason::GaveWay(self.step), Some(error)));
        }
        let wait = self.backoff.wait(error.retry_after);
        if wait >= self.row.lease.remaining() {
            return Err(Stopped::Left(Reason::LeaseRanOut, Some(error)));
        }
        tokio::select! {
            biased;
            () = sleep(wait) => Ok(()),
            () = gate.place_is_needed(self.step, in_trouble_since) => Err(Stopped::Left(Reason::GaveWay(self.step), Some(error))),
        }
    }
}

/// The answer may still be on its way, and the effect may have taken place.
fn too_slow(limit: Duration) -> CallError {
    CallError::new(
        CallErrorKind::AnswerLost,
        format!("no answer within {limit:?}"),
    )
}
