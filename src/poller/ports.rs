//! What the poller needs of the world: a source of updates and a topic, and how their calls can fail.

use std::future::Future;
use std::time::Duration;

use crate::event::{Event, Identifiers};
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};

/// The source of changed rows: community-api.
///
/// The poller puts its own limit on the duration of every call and drops calls that take longer, so an implementation
/// has to be safe to drop at any point.
pub trait Updates: Send + Sync + 'static {
    /// Claims the next row, which is then locked to the caller; `None` if there is nothing to do.
    fn next(&self) -> impl Future<Output = Result<Option<ClaimedRow>, CallError>> + Send;

    /// Looks up an offender; `None` if it is not visible to community-api.
    fn identifiers(
        &self,
        offender: OffenderId,
    ) -> impl Future<Output = Result<Option<Identifiers>, CallError>> + Send;

    /// Deletes a row. That it is not there any more is success: another row for the same record swallowed it.
    fn delete(&self, row: OffenderDeltaId) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Marks a row as permanently failed, never to be served again. That it is not there any more is success.
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

/// A call that did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct CallError {
    /// What to do about it.
    pub kind: CallErrorKind,
    /// The least time to wait before trying again, where the other side asked for one.
    pub retry_after: Option<Duration>,
    /// What happened, in words fit for a log: no personal data, no secret.
    pub cause: String,
}

/// What a failed call means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// Too many at once (409, 429, throttling): nobody's fault, try again later.
    Contended,
    /// There is no token, or it is not accepted.
    Unauthorised,
    /// It may work later: unreachable, slow, broken, forbidden, misconfigured.
    Unavailable,
    /// As [`Self::Unavailable`], and the effect may have taken place nevertheless: the answer was lost.
    AnswerLost,
    /// The message itself can never be accepted.
    Refused,
}

impl CallError {
    /// A call that may work later.
    pub fn unavailable(cause: impl Into<String>) -> Self {
        Self::new(CallErrorKind::Unavailable, cause)
    }

    /// Any failed call, without a wish of the other side's when to try again.
    pub fn new(kind: CallErrorKind, cause: impl Into<String>) -> Self {
        Self {
            kind,
            retry_after: None,
            cause: cause.into(),
        }
    }
}

/// A topic may be shared, as with the health check.
impl<T: Topic> Topic for std::sync::Arc<T> {
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        T::publish(self, events).await
    }
}
