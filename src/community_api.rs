//! community-api over HTTP: the source of changed rows. Status codes become meanings here, and nothing of HTTP leaves this room.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::timeout;

use crate::event::Identifiers;
use crate::http;
use crate::metrics::Metrics;
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId, UnreadableUpdate};
use crate::ports::{CallError, CallErrorKind, Updates};
use crate::token::{Purpose, Token, TokenSource};

/// A client of community-api.
#[derive(Debug)]
pub struct CommunityApi {
    http: Client,
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
    pub fn new(http: Client, base_url: String, tokens: TokenSource, metrics: Arc<Metrics>) -> Self {
        Self {
            http,
            base_url,
            tokens,
            metrics,
        }
    }

    /// Makes a call; `None` if it was answered with 404.
    async fn call(&self, call: Call) -> Result<Option<Response>, CallError> {
        let timer = self.metrics.start_call("community_api", call.name);
        let answer = self.with_token(&call).await;
        let outcome = match &answer {
            Ok(Some(_)) => "ok",
            Ok(None) => "not_found",
            Err(error) => match error.kind {
                CallErrorKind::Contended => "contended",
                CallErrorKind::Unauthorised => "unauthorised",
                _ => "failed",
            },
        };
        timer.ended(outcome);
        answer.map_err(|error| CallError {
            cause: format!("{}: {}", call.name, error.cause),
            ..error
        })
    }

    /// A token may be refused although it should be good still (keys were rotated): once, a new one is tried.
    async fn with_token(&self, call: &Call) -> Result<Option<Response>, CallError> {
        let token = self.tokens.get(call.purpose).await?;
        let mut response = self.send(call, &token).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.refused(&token);
            response = self
                .send(call, &self.tokens.get(call.purpose).await?)
                .await?;
        }
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            status => Err(http::refused(status, response.headers())),
        }
    }

    async fn send(&self, call: &Call, token: &Token) -> Result<Response, CallError> {
        let address = format!("{}{}", self.base_url, call.path);
        let request = self
            .http
            .request(call.method.clone(), address)
            .header(AUTHORIZATION, token.authorization.clone())
            .header(ACCEPT, "application/json");
        http::send(request, "community_api", &self.base_url, call.route).await
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
            let _ = timeout(Duration::from_millis(100), http::body(response)).await;
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
        // The status says that a row is locked now, whatever is the matter with the body.
        Ok(Some(match http::body(response).await {
            Ok(body) => ClaimedRow::from_json(&body),
            Err(error) => ClaimedRow::Unreadable(UnreadableUpdate::nothing(&error.cause)),
        }))
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
        Identifiers::from_json(&http::body(response).await?)
            .map(Some)
            .map_err(|problem| {
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
