//! What the log says about claims and polls: claims that may have locked a row without this pod knowing it, outages of
//! polls, and long times without rows.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::Lease;
use super::quiet_polls::QuietPolls;
use super::row_log::comes_back_at;
use crate::episode::Episode;
use crate::outcome::PollResult;
use crate::ports::CallError;

/// An outage of polls ends with the first answered claim if polls have failed for at least this long without a success.
/// Otherwise it ends with the first answered claim at least this long after the last failed poll. So it lasts while
/// every second poll fails.
const STEADY: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Claims {
    outage: Episode,
    /// How long polls have returned no rows without failing.
    quiet_polls: QuietPolls,
    /// The lease of the row that the current claim may lock.
    under_way: Option<Lease>,
    /// Claims of the outage that got no answer. Each may have locked a row that this pod does not know.
    lost: u32,
    /// The lease of the row that the last of them may have locked.
    last_lost: Option<Lease>,
}

impl Claims {
    /// Records that a claim starts, which may lock a row with this lease.
    pub fn sent(&mut self, lease: Lease) {
        self.under_way = Some(lease);
    }

    /// Records that the claim ended in any way.
    pub fn ended(&mut self) {
        self.under_way = None;
    }

    /// Records a claim that got no answer, and may have locked a row.
    pub fn lost(&mut self, lease: Lease) {
        self.lost += 1;
        // If answers are lost repeatedly, only the first is worth a log line. The outage's next line counts the others.
        if self.last_lost.replace(lease).is_none() {
            tracing::warn!(
                comes_back_at = %comes_back_at(lease),
                "a claim got no answer: it may have locked a row, which comes back when the lock expires"
            );
        }
    }

    /// Records a claim that community-api has answered.
    pub fn answered(&mut self, now: Instant) {
        if let Some(lasted) = self.outage.succeeded(STEADY, now) {
            tracing::info!(
                failed_for_seconds = lasted.as_secs(),
                claims_without_answer = self.lost,
                rows_come_back_by = self
                    .last_lost
                    .map(comes_back_at)
                    .map(tracing::field::display),
                "polls succeed again"
            );
        }
        if !self.outage.lasts() {
            (self.lost, self.last_lost) = (0, None);
        }
    }

    /// Records a poll that failed.
    pub fn poll_failed(&mut self, error: &CallError) {
        if let Some(lasted) = self.outage.failed(Duration::ZERO, Instant::now()) {
            tracing::error!(
                cause = %error,
                failing_for_seconds = lasted.as_secs(),
                claims_without_answer = self.lost,
                rows_come_back_by = self.last_lost.map(comes_back_at).map(tracing::field::display),
                asked_to_wait_seconds = error.retry_after.map(|wait| wait.as_secs()),
                "poll failed: the service keeps polling, and rows wait in Delius. Fix the cause"
            );
        }
    }

    /// Records how a poll ended.
    pub fn poll_ended(&mut self, result: PollResult) {
        let Some(lasted) = self.quiet_polls.ended(result, Instant::now()) else {
            return;
        };
        let for_seconds = lasted.as_secs();
        if result == PollResult::Contended {
            tracing::warn!(
                for_seconds,
                "every poll lost its rows to other callers (409): rows wait in Delius until those callers stop. \
                 Find out who they are"
            );
        } else {
            tracing::info!(
                for_seconds,
                "no poll has found a row (404): if people are changing data in Delius, check COMMUNITY_ENDPOINT_URL, \
                 and whether Delius writes rows. The service keeps polling"
            );
        }
    }

    /// Records that the pod stops now.
    pub fn stopped(&self) {
        if let Some(lease) = self.under_way {
            tracing::warn!(
                comes_back_at = %comes_back_at(lease),
                "the pod stops before a claim is answered: the claim may have locked a row, which comes back when the \
                 lock expires"
            );
        }
    }
}
