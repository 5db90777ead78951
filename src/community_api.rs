//! community-api over HTTP: the source of changed rows. Status codes become meanings here, and nothing of HTTP leaves this room.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING};
use reqwest::{Method, Response, StatusCode};
use tokio::time::timeout;

use crate::event::Identifiers;
use crate::http::{self, HttpClient};
use crate::metrics::Metrics;
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};
use crate::ports::{CallError, CallErrorKind, Updates};
use crate::token::{Purpose, Token, TokenSource};

/// A client of community-api.
#[derive(Debug)]
pub struct CommunityApi {
    http: HttpClient,
    base_url: String,
    tokens: TokenSource,
    metrics: Arc<Metrics>,
}

/// One of the four calls.
struct Call {
    name: &'static str,
    method: Method,
    path: String,
    /// Method and path, the same for any offender and row.
    route: &'static str,
    purpose: Purpose,
}

impl CommunityApi {
    /// A client for the service at `base_url`, which has no slash at its end.
    #[must_use]
    pub fn new(
        http: HttpClient,
        base_url: String,
        tokens: TokenSource,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            http,
            base_url,
            tokens,
            metrics,
        }
    }

    /// Makes a call; `None` if it was answered with 404.
    ///
    /// A token may be refused although it should be good still (keys were rotated): once, a new one is tried.
    async fn call(&self, call: Call) -> Result<Option<Response>, CallError> {
        let named = |error: CallError| CallError {
            cause: format!("{}: {}", call.name, error.cause),
            ..error
        };
        let token = self.tokens.get(call.purpose).await.map_err(named)?;
        let answer = self.timed(&call, &token).await;
        let is_refused = |answer: &Result<_, CallError>| {
            let error = answer.as_ref().err();
            error.is_some_and(|error| error.kind == CallErrorKind::TokenRefused)
        };
        if !is_refused(&answer) || !self.tokens.refused(&token) {
            return answer.map_err(named);
        }
        let token = self.tokens.get(call.purpose).await.map_err(named)?;
        let answer = self.timed(&call, &token).await;
        if is_refused(&answer) {
            self.tokens.new_one_refused(&token);
        }
        answer.map_err(named)
    }

    /// Makes a call with a token. A call for which there was no token has not been made, and is not counted.
    async fn timed(&self, call: &Call, token: &Token) -> Result<Option<Response>, CallError> {
        let timer = self.metrics.start_call("community_api", call.name);
        let answer = match self.send(call, token).await {
            Ok(response) => match response.status() {
                StatusCode::NOT_FOUND => Ok(None),
                status if status.is_success() => Ok(Some(response)),
                status => Err(http::refused(status, response.headers())),
            },
            Err(error) => Err(error),
        };
        timer.ended(match &answer {
            Ok(Some(_)) => "ok",
            Ok(None) => "not_found",
            Err(error) => match error.kind {
                CallErrorKind::Contended => "contended",
                CallErrorKind::Unauthorised | CallErrorKind::TokenRefused => "unauthorised",
                _ => "failed",
            },
        });
        answer
    }

    async fn send(&self, call: &Call, token: &Token) -> Result<Response, CallError> {
        let address = format!("{}{}", self.base_url, call.path);
        let request = self
            .http
            .request(call.method.clone(), address)
            .header(AUTHORIZATION, token.authorization.clone())
            .header(ACCEPT, "application/json");
        http::send(
            &self.http,
            request,
            "community_api",
            &self.base_url,
            call.route,
        )
        .await
    }

    async fn settle(
        &self,
        name: &'static str,
        method: Method,
        path: String,
        route: &'static str,
    ) -> Result<(), CallError> {
        let call = Call {
            name,
            method,
            path,
            route,
            purpose: Purpose::Finish,
        };
        if let Some(response) = self.call(call).await? {
            // Read only so that the connection can be used again, which is not worth much waiting.
            let _ = timeout(Duration::from_millis(100), self.http.body(response)).await;
        }
        Ok(())
    }
}

impl Updates for CommunityApi {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        let path = "/secure/offenders/nextUpdate".to_owned();
        let call = Call {
            name: "nextUpdate",
            method: Method::GET,
            path,
            route: "GET /secure/offenders/nextUpdate",
            purpose: Purpose::Claim,
        };
        let Some(response) = self.call(call).await? else {
            return Ok(None);
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        // The status says that a row may be locked now, whatever is the matter with the body.
        let unreadable = |cause| {
            let cause = format!("nextUpdate: unreadable answer: {cause}");
            CallError::new(CallErrorKind::AnswerLost, cause)
        };
        let is_compressed = response.headers().contains_key(CONTENT_ENCODING);
        let body = self.http.body(response).await;
        let body = body.map_err(|error| unreadable(error.cause))?;
        ClaimedRow::from_json(&body).map_err(|problem| unreadable(told(problem, is_compressed)))
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, CallError> {
        let path = format!("/secure/offenders/offenderId/{offender}/identifiers");
        let call = Call {
            name: "identifiers",
            method: Method::GET,
            path,
            route: "GET /secure/offenders/offenderId/{offenderId}/identifiers",
            purpose: Purpose::Finish,
        };
        let Some(response) = self.call(call).await? else {
            return Ok(None);
        };
        let is_compressed = response.headers().contains_key(CONTENT_ENCODING);
        let body = self.http.body(response).await?;
        Identifiers::from_json(&body).map(Some).map_err(|problem| {
            let problem = told(problem, is_compressed);
            CallError::unavailable(format!("identifiers: unreadable answer: {problem}"))
        })
    }

    async fn delete(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        self.settle(
            "delete",
            Method::DELETE,
            format!("/secure/offenders/update/{row}"),
            "DELETE /secure/offenders/update/{offenderDeltaId}",
        )
        .await
    }

    async fn mark_as_failed(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        self.settle(
            "markAsFailed",
            Method::PUT,
            format!("/secure/offenders/update/{row}/markAsFailed"),
            "PUT /secure/offenders/update/{offenderDeltaId}/markAsFailed",
        )
        .await
    }
}

/// What is wrong with a body. It was asked for as it is, so that a compressed one is a fault of what is in between.
fn told(problem: impl std::fmt::Display, is_compressed: bool) -> String {
    if is_compressed {
        format!("{problem}; it is compressed, although that was not asked for")
    } else {
        problem.to_string()
    }
}
