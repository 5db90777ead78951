//! What the poller needs of the world: a source of rows and a topic, and how their calls can fail.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, Identifiers};
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};

/// The source of changed rows: community-api.
///
/// The poller limits the duration of every call and drops calls that take longer, so an implementation must be safe to
/// drop at any point.
pub trait Updates: Send + Sync + 'static {
    /// Claims the next row, which is then locked to the caller; `None` if there is nothing to do.
    fn next(&self) -> impl Future<Output = Result<Option<ClaimedRow>, CallError>> + Send;

    /// Looks up an offender; `None` if it is not visible to community-api.
    fn identifiers(
        &self,
        offender: OffenderId,
    ) -> impl Future<Output = Result<Option<Identifiers>, CallError>> + Send;

    /// Deletes a row. If the row is no longer there, that is success: another row for the same record has replaced it.
    fn delete(&self, row: OffenderDeltaId) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Marks a row as permanently failed, never to be served again. If the row is no longer there, that is success.
    fn mark_as_failed(
        &self,
        row: OffenderDeltaId,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// Where events go: the SNS topic.
pub trait Topic: Send + Sync + 'static {
    /// Publishes events in one request, and answers for each of them in the same order: accepted (there was a message
    /// id) or why not. An error of the whole stands for an error of each.
    fn publish(
        &self,
        events: &[Event],
    ) -> impl Future<Output = Result<Vec<Result<(), CallError>>, CallError>> + Send;
}

/// A topic may be shared, as with the health check.
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
    /// The least time to wait before the next attempt, if the other side asked for one.
    pub retry_after: Option<Duration>,
    /// What happened, in words fit for a log: no personal data, no secret.
    pub cause: String,
}

/// What a failed call means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// Too many calls at once (409, 429, throttling): no fault, try again later.
    Contended,
    /// hmpps-auth issued no token, so the call was not made.
    NoToken,
    /// community-api does not accept the token (401).
    TokenRefused,
    /// The token lacks a role (403), or the topic does not accept the credentials.
    Unauthorised,
    /// It may work later: unreachable, slow, broken, misconfigured.
    Unavailable,
    /// As [`Self::Unavailable`], but the call may have taken effect: its answer was lost.
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

    /// A call that was given up after `limit`. It may have taken effect.
    #[must_use]
    pub fn no_answer_within(limit: Duration) -> Self {
        Self::new(
            CallErrorKind::AnswerLost,
            format!("no answer within {limit:?}"),
        )
    }
}
