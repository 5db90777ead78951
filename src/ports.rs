//! What the poller needs: a source of rows and a topic, and how their calls can fail.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::event::{Event, Identifiers};
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};

/// The source of rows: community-api.
///
/// The poller limits the duration of every call and drops calls that take longer. So it must be safe to drop a call at
/// any point.
pub trait Updates: Send + Sync + 'static {
    /// Claims the next row and locks it for the caller. `None` if there are no rows.
    fn next(&self) -> impl Future<Output = Result<Option<ClaimedRow>, CallError>> + Send;

    /// Looks up an offender; `None` if it is not visible to community-api.
    fn identifiers(
        &self,
        offender: OffenderId,
    ) -> impl Future<Output = Result<Option<Identifiers>, CallError>> + Send;

    /// Deletes a row. If it no longer exists, that is success: another row for the same record has replaced it.
    fn delete(&self, row: OffenderDeltaId) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Marks a row as permanently failed, so that it is never served again. If it no longer exists, that is success.
    fn mark_as_failed(
        &self,
        row: OffenderDeltaId,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// Where events go: the SNS topic.
pub trait Topic: Send + Sync + 'static {
    /// Publishes events in one request. Returns one result per event, in the same order: accepted with a message id, or
    /// why not. If the whole call fails, its error counts for each event.
    fn publish(
        &self,
        events: &[Event],
    ) -> impl Future<Output = Result<Vec<Result<(), CallError>>, CallError>> + Send;
}

impl<T: Topic> Topic for Arc<T> {
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        T::publish(self, events).await
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct CallError {
    /// What to do about it.
    pub kind: CallErrorKind,
    /// The minimum wait before the next attempt, if the other side asked for one.
    pub retry_after: Option<Duration>,
    /// What happened, in words that are safe to log: no personal data and no secrets.
    pub cause: String,
}

/// What a failed call means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// Too many concurrent calls: 409 from community-api, 429 or throttling from SNS. Retry later.
    Contended,
    /// hmpps-auth issued no token, so the call was not made.
    NoToken,
    /// community-api does not accept the token (401).
    TokenRefused,
    /// The token lacks a role (403), or the topic does not accept the credentials.
    Unauthorised,
    /// The other side is unreachable, slow, faulty or misconfigured. The call may work later.
    Unavailable,
    /// Like [`Self::Unavailable`], but the call may have taken effect, since its answer was lost.
    AnswerLost,
    /// The topic will never accept this message.
    Refused,
}

impl CallError {
    /// A call that may work later.
    pub fn unavailable(cause: impl Into<String>) -> Self {
        Self::new(CallErrorKind::Unavailable, cause)
    }

    /// A failed call, without a time to wait before the next attempt.
    pub fn new(kind: CallErrorKind, cause: impl Into<String>) -> Self {
        Self {
            kind,
            retry_after: None,
            cause: cause.into(),
        }
    }
}

/// Makes a call, and stops waiting for it after `limit`, which `setting` sets. The call may have taken effect then.
pub async fn within<R>(
    limit: Duration,
    setting: &str,
    call: impl Future<Output = Result<R, CallError>>,
) -> Result<R, CallError> {
    let answer = timeout(limit, call).await;
    answer.unwrap_or_else(|_| {
        let cause = format!("no answer within {limit:?} ({setting})");
        Err(CallError::new(CallErrorKind::AnswerLost, cause))
    })
}
