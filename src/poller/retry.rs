//! The attempts at one call for a row: how long each may take, how long to wait before the next one, and when to stop.
//!
//! [`Attempts`] is the policy, and pure: times and randomness are arguments. `Retry` makes the calls.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::held::HeldRow;
use super::lease::Lease;
use crate::config::{CALL_TIMEOUT, PUBLISH_TIMEOUT, PollerSettings};
use crate::outcome::{Reason, RedeliveryCause, Step};
use crate::ports::{CallError, CallErrorKind, within};

/// The first wait. Each wait is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait is the lock divided by this: 20 s for a lock of 10 minutes. So a row is retried at most this long
/// after an outage ends, unless a `Retry-After` was longer.
pub const LONGEST_WAIT_DIVISOR: u32 = 30;
/// A row may be crowded out from this failure on. The first two may be the last calls of an outage that has ended.
const FAILURES_BEFORE_CROWDED_OUT: u32 = 3;
/// The longest wait while the pod stops, so that each row gets another attempt within the grace period.
const LONGEST_WAIT_WHILE_STOPPING: Duration = Duration::from_secs(2);

/// The attempts at one step so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempts {
    step: Step,
    failures: u32,
    /// Whether an earlier attempt may have taken effect.
    pub answer_lost: bool,
}

/// What happens after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The next attempt, after this time.
    Wait(Duration),
    /// No further attempt on this claim.
    Leave(Reason),
}

impl Attempts {
    /// No attempt yet.
    pub fn at(step: Step) -> Self {
        Self {
            step,
            failures: 0,
            answer_lost: false,
        }
    }

    /// Why the next publish may be a redelivery, if it may.
    pub fn redelivery(&self, was_claimed_before: bool) -> Option<RedeliveryCause> {
        if self.answer_lost {
            return Some(RedeliveryCause::AnswerLost);
        }
        (was_claimed_before && self.failures == 0).then_some(RedeliveryCause::ClaimedAgain)
    }

    /// How long the next attempt may take. `None` if it must not be made.
    ///
    /// A publish, and any step that leads to one, starts only if the lease has enough time left for it. After a lost
    /// answer a publish gets twice the time: if SNS is slower than the limit, more attempts would only publish more
    /// often.
    pub fn limit(&self, lease_left: Duration, settings: &PollerSettings) -> Option<Duration> {
        let publish = settings.publish_timeout;
        match self.step {
            Step::Identifiers | Step::Publish if lease_left < publish => None,
            Step::Publish if self.answer_lost => Some((publish * 2).min(lease_left)),
            Step::Publish => Some(publish),
            // A published row may be deleted at any time, even after its lease.
            Step::Delete if self.failures == 0 => Some(settings.call_timeout),
            Step::Delete | Step::MarkAsFailed if lease_left.is_zero() => None,
            _ => Some(settings.call_timeout.min(lease_left)),
        }
    }

    /// Decides what happens after an attempt that failed, with this much of the lease left. `chance` is from 0 to 1.
    pub fn failed(
        &mut self,
        error: &CallError,
        lease_left: Duration,
        is_crowded_out: bool,
        chance: f64,
        settings: &PollerSettings,
    ) -> After {
        self.failures += 1;
        self.answer_lost |= error.kind == CallErrorKind::AnswerLost;
        if error.kind == CallErrorKind::Refused {
            return After::Leave(Reason::Refused);
        }
        // A row whose events may be on the topic is never crowded out.
        if self.step == Step::Identifiers
            && self.failures >= FAILURES_BEFORE_CROWDED_OUT
            && is_crowded_out
        {
            return After::Leave(Reason::CrowdedOut);
        }
        let longest = settings.lock_expiry / LONGEST_WAIT_DIVISOR;
        let doubled = FIRST_WAIT.saturating_mul(1 << (self.failures - 1).min(16));
        let wait = doubled.min(longest).mul_f64(0.5 + chance / 2.0);
        let wait = error.retry_after.map_or(wait, |asked| asked.max(wait));
        if wait >= lease_left {
            return After::Leave(Reason::LeaseRanOut);
        }
        After::Wait(wait)
    }
}

/// Why there is no further attempt, and the last error if there was an attempt.
pub(super) type Stopped = (Reason, Option<CallError>);

pub(super) struct Retry<'a> {
    pub held: &'a mut HeldRow,
    pub lease: Lease,
    pub settings: &'a PollerSettings,
    pub stopping: &'a CancellationToken,
}

impl Retry<'_> {
    /// Makes a call until it succeeds, inside the row's lease.
    pub async fn run<R, F: Future<Output = Result<R, CallError>>>(
        &mut self,
        step: Step,
        call: impl Fn(Attempts) -> F,
    ) -> Result<R, Stopped> {
        let mut attempts = Attempts::at(step);
        let mut first_failure = None;
        let mut last_error = None;
        loop {
            let lease_left = self.lease.remaining(Instant::now());
            let Some(limit) = attempts.limit(lease_left, self.settings) else {
                return Err((Reason::LeaseRanOut, last_error));
            };
            let started = Instant::now();
            let error = match within(limit, setting_of(step), call(attempts)).await {
                Ok(result) => {
                    if step == Step::Identifiers {
                        self.held.answered(started);
                    }
                    return Ok(result);
                }
                Err(error) => error,
            };
            if error.kind != CallErrorKind::Refused {
                self.held.call_failed(step, &error);
            }
            let first_failure = *first_failure.get_or_insert_with(Instant::now);
            let lease_left = self.lease.remaining(Instant::now());
            let is_crowded_out = self.held.is_crowded_out(first_failure, started);
            let chance = fastrand::f64();
            match attempts.failed(&error, lease_left, is_crowded_out, chance, self.settings) {
                After::Wait(wait) => self.wait(wait).await,
                After::Leave(reason) => return Err((reason, Some(error))),
            }
            last_error = Some(error);
        }
    }

    /// Waits, but only briefly while the pod stops.
    async fn wait(&self, wait: Duration) {
        let stopping = async {
            self.stopping.cancelled().await;
            sleep(LONGEST_WAIT_WHILE_STOPPING.mul_f64(fastrand::f64())).await;
        };
        tokio::select! {
            biased;
            () = sleep(wait) => {}
            () = stopping => {}
        }
    }
}

/// The setting that limits the call.
fn setting_of(step: Step) -> &'static str {
    match step {
        Step::Publish => PUBLISH_TIMEOUT,
        Step::Identifiers | Step::Delete | Step::MarkAsFailed => CALL_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::poller_settings;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_lease_limits_each_call() {
        use Step::{Delete, Identifiers, MarkAsFailed, Publish};
        // Calls may take 10 s, a publish 5 s. The step, failures before, whether an answer was lost, what is left of
        // the lease; how long the call may take.
        #[rustfmt::skip]
        let cases = [
            (Identifiers, 0, false, 570.0, Some(10.0)),
            (Identifiers, 1, false, 7.0, Some(7.0)),
            (Identifiers, 0, false, 4.9, None),
            (Publish, 0, false, 570.0, Some(5.0)),
            (Publish, 0, false, 5.0, Some(5.0)),
            (Publish, 0, false, 4.9, None),
            (Publish, 1, false, 570.0, Some(5.0)),
            (Publish, 1, true, 570.0, Some(10.0)),
            (Publish, 1, true, 6.0, Some(6.0)),
            (Publish, 1, true, 4.9, None),
            (Delete, 0, false, 0.0, Some(10.0)),
            (Delete, 1, false, 3.0, Some(3.0)),
            (Delete, 1, false, 0.0, None),
            (MarkAsFailed, 0, false, 3.0, Some(3.0)),
            (MarkAsFailed, 0, false, 0.0, None),
        ];
        for case in cases {
            let (step, failures, answer_lost, lease_left, limit) = case;
            let attempts = Attempts {
                step,
                failures,
                answer_lost,
            };
            let allowed = attempts.limit(seconds(lease_left), &poller_settings());
            assert_eq!(allowed, limit.map(seconds), "{case:?}");
        }
    }

    #[test]
    fn what_happens_after_a_failure_follows_from_the_error_and_the_lease() {
        use After::{Leave, Wait};
        use CallErrorKind as Kind;
        use Step::{Delete, Identifiers, Publish};
        let wait = |time| Wait(seconds(time));
        // The step, failures before, the error, Retry-After in seconds, whether the pod holds too many rows, what is
        // left of the lease in seconds; what happens.
        #[rustfmt::skip]
        let cases = [
            (Identifiers, 0, Kind::Unavailable, 0, false, 500, wait(0.2)),
            (Identifiers, 1, Kind::Contended, 0, false, 500, wait(0.4)),
            (Identifiers, 1, Kind::Unavailable, 0, true, 500, wait(0.4)),
            (Identifiers, 2, Kind::Unavailable, 0, true, 500, Leave(Reason::CrowdedOut)),
            (Publish, 2, Kind::Unavailable, 0, true, 500, wait(0.8)),
            (Delete, 9, Kind::AnswerLost, 0, true, 500, wait(20.0)),
            (Delete, 100, Kind::AnswerLost, 0, true, 500, wait(20.0)),
            (Publish, 0, Kind::Contended, 30, false, 500, wait(30.0)),
            (Publish, 0, Kind::Contended, 300, false, 300, Leave(Reason::LeaseRanOut)),
            (Publish, 9, Kind::NoToken, 0, false, 20, Leave(Reason::LeaseRanOut)),
            (Publish, 0, Kind::Refused, 0, false, 500, Leave(Reason::Refused)),
        ];
        for case in cases {
            let (step, failures, kind, retry_after, is_crowded_out, lease_left, after) = case;
            let mut attempts = Attempts {
                failures,
                ..Attempts::at(step)
            };
            let error = CallError {
                retry_after: (retry_after > 0).then(|| Duration::from_secs(retry_after)),
                ..CallError::new(kind, "x")
            };
            let lease_left = Duration::from_secs(lease_left);
            let happens =
                attempts.failed(&error, lease_left, is_crowded_out, 1.0, &poller_settings());
            assert_eq!(happens, after, "{case:?}");
            assert_eq!(attempts.answer_lost, kind == Kind::AnswerLost, "{case:?}");
        }
    }

    #[test]
    fn a_publish_may_be_a_redelivery_for_two_reasons() {
        use RedeliveryCause::{AnswerLost, ClaimedAgain};
        // Failures before, whether an answer was lost, whether the row was claimed before; the cause.
        for (failures, answer_lost, was_claimed_before, cause) in [
            (0, false, false, None),
            (1, false, false, None),
            (0, false, true, Some(ClaimedAgain)),
            (1, false, true, None),
            (1, true, false, Some(AnswerLost)),
            (2, true, true, Some(AnswerLost)),
        ] {
            let attempts = Attempts {
                failures,
                answer_lost,
                ..Attempts::at(Step::Publish)
            };
            assert_eq!(attempts.redelivery(was_claimed_before), cause);
        }
    }

    #[test]
    fn chance_shortens_a_wait_by_half_at_most() {
        let settings = poller_settings();
        let mut attempts = Attempts::at(Step::Publish);
        let error = CallError::unavailable("x");
        let after = attempts.failed(&error, settings.lock_expiry, false, 0.0, &settings);
        assert_eq!(after, After::Wait(seconds(0.1)));
    }
}
