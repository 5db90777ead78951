//! The attempts at one call for a row: each with a limit, all inside the row's lease, with growing waits between them; and
//! when to stop trying although the lease has not ended.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::PollerSettings;
use super::backoff::Backoff;
use super::claim_gate::{ClaimGate, Step};
use super::lease::Lease;
use super::outcome::Reason;
use super::ports::{CallError, CallErrorKind};

/// A call that takes longer than this counts as trouble.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait is this part of the lock's life: 20 seconds of 10 minutes.
const LONGEST_BACKOFF_PART: u32 = 30;
/// A row is left after so many failures while others got through.
const FAILURES_ALONE: u32 = 6;
/// So many are enough if its place is needed; one is not, since it may be the last of an outage that is over. For a row that was
/// tried in vain before, others need not have got through.
const FAILURES_IF_PLACE_IS_NEEDED: u32 = 2;

/// Why a step was not completed.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The topic will never accept it.
    Refused(CallError),
    /// Not this time.
    Left(Reason, Option<CallError>),
}

/// The attempts at one step of a row.
pub(super) struct Attempts<'a> {
    gate: &'a ClaimGate,
    settings: &'a PollerSettings,
    lease: Lease,
    step: Step,
    backoff: Backoff,
    /// A row of this offender was left before, since its calls kept failing.
    was_tried_in_vain: bool,
    failures: u32,
    failures_alone: u32,
    contended_alone: u32,
    last_error: Option<CallError>,
    /// When the current or last call was started.
    started: Instant,
    tried: bool,
}

impl<'a> Attempts<'a> {
    pub fn new(
        gate: &'a ClaimGate,
        settings: &'a PollerSettings,
        lease: Lease,
        step: Step,
        was_tried_in_vain: bool,
    ) -> Self {
        Self {
            gate,
            settings,
            lease,
            step,
            backoff: first_backoff(settings),
            was_tried_in_vain,
            failures: 0,
            failures_alone: 0,
            contended_alone: 0,
            last_error: None,
            started: Instant::now(),
            tried: false,
        }
    }

    /// When the current or last call was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Makes one attempt, if the lease allows it.
    pub async fn call<R, F: Future<Output = Result<R, CallError>>>(
        &mut self,
        call: impl FnOnce() -> F,
    ) -> Result<Result<R, CallError>, Stopped> {
        let Some(limit) = self.limit() else {
            return Err(Stopped::Left(Reason::LeaseRanOut, self.last_error.take()));
        };
        self.tried = true;
        self.started = Instant::now();
        tokio::select! {
            biased;
            answer = timeout(limit, call()) => Ok(answer.unwrap_or_else(|_| Err(too_slow(limit)))),
            () = self.gate.others_are_faster(self.step, self.started, PATIENCE) => Ok(Err(too_slow(PATIENCE))),
        }
    }

    /// How long the next call may take; `None` if it must not be made. No publish is started with less of the lease left
    /// than it may take, and nothing that leads to one.
    fn limit(&self) -> Option<Duration> {
        let remaining = self.lease.remaining();
        let PollerSettings {
            call_timeout,
            publish_timeout,
            ..
        } = *self.settings;
        match self.step {
            Step::Publish => (remaining >= publish_timeout).then_some(publish_timeout),
            Step::Identifiers => {
                (remaining >= publish_timeout).then(|| remaining.min(call_timeout))
            }
            Step::MarkAsFailed => (!remaining.is_zero()).then(|| remaining.min(call_timeout)),
            // To delete a row whose events are on the topic is right at any time, and the later the more so.
            Step::Delete => (!remaining.is_zero() || !self.tried).then_some(call_timeout),
        }
    }

    /// Notes that the last call got through.
    pub fn got_through(&self) {
        self.gate.got_through(self.step, self.started);
    }

    /// Notes that the last call failed, and waits for the next attempt, if there should be one.
    pub async fn failed(&mut self, error: CallError) -> Result<(), Stopped> {
        if error.kind == CallErrorKind::Refused {
            return Err(Stopped::Refused(error));
        }
        tracing::debug!(step = ?self.step, cause = %error, "call failed");
        // Before the gate hears of it, so that no resumption after that is missed.
        let resumed = self.gate.resumed();
        let alone = self
            .gate
            .failed(self.step, self.started, self.failures == 0, &error);
        self.failures += 1;
        if alone && error.kind == CallErrorKind::Contended {
            self.contended_alone += 1;
        } else if alone {
            if self.failures_alone == 0 {
                // The trouble is its own now, which a few quick attempts will settle one way or the other.
                self.backoff = first_backoff(self.settings);
            }
            self.failures_alone += 1;
        }
        // What is published has to be deleted: only the need for its place ends the attempts at that.
        if self.failures_alone >= FAILURES_ALONE && self.step != Step::Delete {
            return Err(Stopped::Left(Reason::GaveWay(self.step), Some(error)));
        }
        let wait = self.backoff.wait(error.retry_after);
        if wait >= self.lease.remaining() {
            return Err(Stopped::Left(Reason::LeaseRanOut, Some(error)));
        }
        let failures_that_count = if self.was_tried_in_vain {
            self.failures
        } else {
            self.failures_alone + self.contended_alone
        };
        let may_go = || failures_that_count >= FAILURES_IF_PLACE_IS_NEEDED;
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = resumed, if error.retry_after.is_none() => {}
            () = self.gate.place_is_needed(may_go) => {
                return Err(Stopped::Left(Reason::GaveWay(self.step), Some(error)));
            }
        }
        self.last_error = Some(error);
        Ok(())
    }
}

fn first_backoff(settings: &PollerSettings) -> Backoff {
    let longest = settings.lock_expiry / LONGEST_BACKOFF_PART;
    Backoff::new(FIRST_BACKOFF.min(longest), longest)
}

/// The answer may still be on its way, and the effect may have taken place.
fn too_slow(limit: Duration) -> CallError {
    CallError::new(
        CallErrorKind::AnswerLost,
        format!("no answer within {limit:?}"),
    )
}
