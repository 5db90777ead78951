//! community-api over HTTP: the source of rows. This room gives status codes their meaning. No type of HTTP leaves it.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING};
use reqwest::{Method, StatusCode};
use tokio::time::timeout;

use crate::calls::{Call, CallName};
use crate::event::Identifiers;
use crate::http::{self, HttpClient};
use crate::metrics::Metrics;
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};
use crate::outcome::Dependency;
use crate::ports::{CallError, CallErrorKind, Updates};
use crate::token::{Purpose, Token, TokenSource};

/// A client of community-api. It makes each call once, or twice if the token is refused.
#[derive(Debug)]
pub struct CommunityApi {
    http: HttpClient,
    base_url: String,
    tokens: TokenSource,
    metrics: Arc<Metrics>,
}

const NEXT: CallName = named("nextUpdate", "GET /secure/offenders/nextUpdate");
const IDENTIFIERS: CallName = named(
    "identifiers",
    "GET /secure/offenders/offenderId/{offenderId}/identifiers",
);
const DELETE: CallName = named(
    "delete",
    "DELETE /secure/offenders/update/{offenderDeltaId}",
);
const MARK_AS_FAILED: CallName = named(
    "markAsFailed",
    "PUT /secure/offenders/update/{offenderDeltaId}/markAsFailed",
);

const fn named(call: &'static str, route: &'static str) -> CallName {
    CallName {
        dependency: Dependency::CommunityApi,
        call,
        route,
    }
}

impl CommunityApi {
    /// `base_url` must not end with a slash.
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

    /// Makes a call, and reads the body of its answer. `None` if the answer is 404.
    ///
    /// A token may be refused before it expires, since keys rotate. The call is then repeated once with a new token.
    async fn call<R, E: Display>(
        &self,
        name: CallName,
        id: Option<i64>,
        purpose: Purpose,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let named = |error: CallError| CallError {
            cause: format!("{}: {}", name.call, error.cause),
            ..error
        };
        let token = self.tokens.get(purpose).await.map_err(named)?;
        let answer = self.timed(name, id, &token, &read).await;
        let is_refused = |answer: &Result<_, CallError>| {
            let error = answer.as_ref().err();
            error.is_some_and(|error| error.kind == CallErrorKind::TokenRefused)
        };
        if !is_refused(&answer) || !self.tokens.refused(&token) {
            return answer.map_err(named);
        }
        let token = self.tokens.get(purpose).await.map_err(named)?;
        let answer = self.timed(name, id, &token, &read).await;
        if is_refused(&answer) {
            self.tokens.new_one_refused(&token);
        }
        answer.map_err(named)
    }

    /// Makes a call with a token. If there is no token, the call is neither made nor counted.
    async fn timed<R, E: Display>(
        &self,
        name: CallName,
        id: Option<i64>,
        token: &Token,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let mut call = Call::start(&self.metrics, name, http::host_of(&self.base_url));
        let answer = self.answer(&mut call, name, id, token, read).await;
        call.ended(answer.as_ref().err());
        answer
    }

    async fn answer<R, E: Display>(
        &self,
        call: &mut Call<'_>,
        name: CallName,
        id: Option<i64>,
        token: &Token,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let (method, path) = method_and_path(name.route, id);
        // Of the other answers, only the status matters.
        let has_body = method == Method::GET;
        let request = self
            .http
            .request(method, format!("{}{path}", self.base_url))
            .header(AUTHORIZATION, token.authorization.clone())
            .header(ACCEPT, "application/json");
        let response = call.send(&self.http, request).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(http::refused(status, response.headers()));
        }
        let is_compressed = response.headers().contains_key(CONTENT_ENCODING);
        let body = self.http.body(response);
        let body = if has_body {
            body.await?
        } else {
            // Read only so that the connection can be reused, which is not worth a long wait.
            let _ = timeout(Duration::from_millis(100), body).await;
            Vec::new()
        };
        read(&body).map(Some).map_err(|problem| {
            let hint = if is_compressed {
                "; it is compressed, although the request does not allow that: check the proxies between the service \
                 and community-api"
            } else {
                ""
            };
            // The status says that the call took effect: a row may be locked now.
            let cause = format!("unreadable answer: {problem}{hint}");
            CallError::new(CallErrorKind::AnswerLost, cause)
        })
    }

    async fn settle(&self, name: CallName, row: OffenderDeltaId) -> Result<(), CallError> {
        let read = |_: &[u8]| Ok::<_, Infallible>(());
        let answer = self.call(name, Some(row.0), Purpose::Finish, read).await;
        answer.map(drop)
    }
}

/// Splits a route, and puts the id in the place of its name.
fn method_and_path(route: &str, id: Option<i64>) -> (Method, String) {
    let (method, path) = route.split_once(' ').unwrap_or_default();
    let id = id.map_or_else(String::new, |id| id.to_string());
    let path = path
        .replace("{offenderId}", &id)
        .replace("{offenderDeltaId}", &id);
    (method.parse().unwrap_or_default(), path)
}

impl Updates for CommunityApi {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        let row = self.call(NEXT, None, Purpose::Claim, ClaimedRow::from_json);
        Ok(row.await?.flatten())
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, CallError> {
        let (id, read) = (Some(offender.0), Identifiers::from_json);
        self.call(IDENTIFIERS, id, Purpose::Finish, read).await
    }

    async fn delete(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        self.settle(DELETE, row).await
    }

    async fn mark_as_failed(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        self.settle(MARK_AS_FAILED, row).await
    }
}
