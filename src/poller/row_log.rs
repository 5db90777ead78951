//! One line in the log for each row that leaves flight: which row, what became of it, how long it took.

use std::time::Duration;

use super::lease::Lease;
use super::outcome::Outcome;
use super::ports::CallError;
use crate::event::event_type_of;
use crate::offender_update::ClaimedRow;

/// Writes the line. Ids of Delius and event types are no personal data; CRNs and prison numbers never get here.
pub fn log(
    row: &ClaimedRow,
    outcome: Outcome,
    error: Option<&CallError>,
    took: Duration,
    lease: Lease,
) {
    let (offender_id, offender_delta_id, event_type, problem) = match row {
        ClaimedRow::Update(update) => (
            Some(update.offender_id.0),
            Some(update.offender_delta_id.0),
            Some(event_type_of(update).0),
            None,
        ),
        ClaimedRow::Unreadable(row) => (
            row.offender_id.map(|id| id.0),
            row.offender_delta_id.map(|id| id.0),
            None,
            Some(row.problem.as_str()),
        ),
    };
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let cause = error.map(|error| error.cause.as_str()).or(problem);
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
            "row marked as permanently failed"
        ),
        Outcome::LeftLocked(_) => tracing::warn!(
            offenderId = offender_id,
            offenderDeltaId = offender_delta_id,
            eventType = event_type,
            outcome = outcome.name(),
            milliseconds,
            cause,
            comes_back_at = %comes_back_at(lease),
            "row kept locked, it comes back when the lock runs out"
        ),
    }
}

/// In whole seconds of UTC, as the log's own times.
fn comes_back_at(lease: Lease) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    let at = now.checked_add(lease.comes_back_in()).unwrap_or(now);
    at.round(jiff::Unit::Second).unwrap_or(at)
}
