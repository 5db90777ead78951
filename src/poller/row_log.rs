//! One line in the log for each row that this pod no longer holds: which row, how it ended, and why.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use tokio::time::Instant;

use super::lease::Lease;
use crate::offender_update::ClaimedRow;
use crate::outcome::Outcome;

/// Writes the line. The line contains Delius ids and event types, but never a CRN or prison number.
pub fn log(
    row: &ClaimedRow,
    event_type: Option<&str>,
    outcome: Outcome,
    cause: Option<&str>,
    took: Duration,
    lease: Lease,
) {
    let offender_id = row.offender_id().map(|id| id.0);
    let offender_delta_id = row.offender_delta_id().map(|id| id.0);
    let problem = match row {
        ClaimedRow::Update(_) => None,
        ClaimedRow::Unreadable(row) => Some(row.problem.as_str()),
    };
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let cause = cause.or(problem);
    match outcome {
        Outcome::Published | Outcome::DeletedAgain => tracing::info!(
            offenderId = offender_id,
            offenderDeltaId = offender_delta_id,
            eventType = event_type,
            outcome = outcome.name(),
            milliseconds,
            "row settled"
        ),
        Outcome::PermanentlyFailed => tracing::warn!(
            offenderId = offender_id,
            offenderDeltaId = offender_delta_id,
            eventType = event_type,
            outcome = outcome.name(),
            milliseconds,
            cause,
            "row marked as permanently failed: the service will not publish its remaining events. Check the cause"
        ),
        // Without an id the service cannot mark it.
        Outcome::LeftLocked(reason) if reason.is_second_chance() && offender_delta_id.is_some() => {
            tracing::warn!(
                offenderId = offender_id,
                offenderDeltaId = offender_delta_id,
                eventType = event_type,
                outcome = outcome.name(),
                milliseconds,
                cause,
                comes_back_at = %comes_back_at(lease),
                "row left locked: it comes back when the lock expires. If the service still cannot turn the row into \
                 events then, it marks the row as permanently failed"
            );
        }
        Outcome::LeftLocked(_) => tracing::warn!(
            offenderId = offender_id,
            offenderDeltaId = offender_delta_id,
            eventType = event_type,
            outcome = outcome.name(),
            milliseconds,
            cause,
            comes_back_at = %comes_back_at(lease),
            "row left locked: it comes back when the lock expires, and the service tries again. If that repeats, \
             check the cause"
        ),
    }
}

/// In whole seconds of UTC, like the log's own times.
pub fn comes_back_at(lease: Lease) -> Timestamp {
    let now = Timestamp::now();
    let at = now
        .checked_add(lease.comes_back_in(Instant::now()))
        .unwrap_or(now);
    at.round(Unit::Second).unwrap_or(at)
}
