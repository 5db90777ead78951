//! Every call to another service: named in one place, and timed from its start to the last byte of its answer.
//! Prometheus and Application Insights get the same outcome.

use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::time::Instant;

use crate::http::{self, HttpClient};
use crate::insights;
use crate::metrics::Metrics;
use crate::outcome::{CallOutcome, Dependency, Label};
use crate::ports::{CallError, CallErrorKind};

#[derive(Clone, Copy, Debug)]
pub struct CallName {
    pub dependency: Dependency,
    /// The label in Prometheus.
    pub call: &'static str,
    /// The name in Application Insights, the same for every offender and row.
    pub route: &'static str,
}

/// A call under way. If it is dropped before its end, the caller has stopped waiting.
#[derive(Debug)]
pub struct Call<'a> {
    metrics: &'a Metrics,
    name: CallName,
    started: Instant,
    status: Option<StatusCode>,
    outcome: CallOutcome,
    span: insights::Call,
}

impl<'a> Call<'a> {
    /// Starts a call. `target` is the host or the topic.
    #[must_use]
    pub fn start(metrics: &'a Metrics, name: CallName, target: &str) -> Self {
        Self {
            metrics,
            name,
            started: Instant::now(),
            status: None,
            outcome: CallOutcome::TimedOut,
            span: insights::start_call(name.dependency.name(), target, name.route),
        }
    }

    /// The header with which the other side can join the operation (W3C Trace Context).
    pub fn traceparent(&self) -> Option<(&'static str, String)> {
        self.span.traceparent()
    }

    /// Sends the request. An answer with any status is a success.
    pub async fn send(
        &mut self,
        http: &HttpClient,
        request: RequestBuilder,
    ) -> Result<Response, CallError> {
        let request = match self.traceparent() {
            Some((header, value)) => request.header(header, value),
            None => request,
        };
        let answer = http.send(request).await.map_err(http::not_answered)?;
        self.status = Some(answer.status());
        Ok(answer)
    }

    /// Records the end of the call, and why it failed.
    pub fn ended(mut self, error: Option<&CallError>) {
        self.outcome = match error {
            Some(error) => outcome_of(error.kind),
            None if self.status == Some(StatusCode::NOT_FOUND) => CallOutcome::NotFound,
            None => CallOutcome::Ok,
        };
        let name = self.outcome.name();
        let code = self.status.map(|status| status.as_u16().to_string());
        let failure = error.filter(|error| error.kind != CallErrorKind::Contended);
        let failure = failure.map(|error| error.cause.as_str());
        self.span
            .ended(code.map_or(name.into(), Into::into), failure);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let CallName {
            dependency, call, ..
        } = self.name;
        let took = self.started.elapsed();
        self.metrics
            .observe_call(dependency, call, self.outcome, took);
    }
}

fn outcome_of(kind: CallErrorKind) -> CallOutcome {
    match kind {
        CallErrorKind::Contended => CallOutcome::Contended,
        CallErrorKind::NoToken | CallErrorKind::TokenRefused | CallErrorKind::Unauthorised => {
            CallOutcome::Unauthorised
        }
        CallErrorKind::Refused => CallOutcome::Refused,
        CallErrorKind::AnswerLost => CallOutcome::AnswerLost,
        CallErrorKind::Unavailable => CallOutcome::Failed,
    }
}
