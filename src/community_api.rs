//! community-api over HTTP: the source of changed rows. Status codes become meanings here, and nothing of HTTP leaves
//! this room.

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

struct Asked {
    name: CallName,
    method: Method,
    path: String,
    purpose: Purpose,
    /// Whether the answer has more than a status.
    has_body: bool,
}

const fn named(call: &'static str, route: &'static str) -> CallName {
    CallName {
        dependency: Dependency::CommunityApi,
        call,
        route,
    }
}

impl CommunityApi {
    /// `base_url` has no slash at its end.
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

    /// Makes a call, and reads the body of its answer. `None` if the answer is 404.
    ///
    /// A token may be refused before it expires, since keys rotate. The call is then repeated once with a new token.
    async fn call<R, E: Display>(
        &self,
        asked: Asked,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let named = |error: CallError| CallError {
            cause: format!("{}: {}", asked.name.call, error.cause),
            ..error
        };
        let token = self.tokens.get(asked.purpose).await.map_err(named)?;
        let answer = self.timed(&asked, &token, &read).await;
        let is_refused = |answer: &Result<_, CallError>| {
            let error = answer.as_ref().err();
            error.is_some_and(|error| error.kind == CallErrorKind::TokenRefused)
        };
        if !is_refused(&answer) || !self.tokens.refused(&token) {
            return answer.map_err(named);
        }
        let token = self.tokens.get(asked.purpose).await.map_err(named)?;
        let answer = self.timed(&asked, &token, &read).await;
        if is_refused(&answer) {
            self.tokens.new_one_refused(&token);
        }
        answer.map_err(named)
    }

    /// Makes a call with a token. A call without a token is never made, and not counted.
    async fn timed<R, E: Display>(
        &self,
        asked: &Asked,
        token: &Token,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let mut call = Call::start(&self.metrics, asked.name, http::host_of(&self.base_url));
        let answer = self.answer(&mut call, asked, token, read).await;
        call.ended(answer.as_ref().err());
        answer
    }

    async fn answer<R, E: Display>(
        &self,
        call: &mut Call<'_>,
        asked: &Asked,
        token: &Token,
        read: impl Fn(&[u8]) -> Result<R, E>,
    ) -> Result<Option<R>, CallError> {
        let address = format!("{}{}", self.base_url, asked.path);
        let request = self
            .http
            .request(asked.method.clone(), address)
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
        let body = if asked.has_body {
            body.await?
        } else {
            // Read only so that the connection can be reused, which is not worth a long wait.
            let _ = timeout(Duration::from_millis(100), body).await;
            Vec::new()
        };
        read(&body).map(Some).map_err(|problem| {
            let hint = if is_compressed {
                // The request does not ask for that.
                "; it is compressed, so something between the service and community-api changes it"
            } else {
                ""
            };
            // The status says that the call had its effect: a row may be locked now.
            let cause = format!("unreadable answer: {problem}{hint}");
            CallError::new(CallErrorKind::AnswerLost, cause)
        })
    }

    async fn settle(&self, name: CallName, method: Method, path: String) -> Result<(), CallError> {
        let asked = Asked {
            name,
            method,
            path,
            purpose: Purpose::Finish,
            has_body: false,
        };
        let read = |_: &[u8]| Ok::<_, Infallible>(());
        self.call(asked, read).await.map(drop)
    }
}

impl Updates for CommunityApi {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        let asked = Asked {
            name: named("nextUpdate", "GET /secure/offenders/nextUpdate"),
            method: Method::GET,
            path: "/secure/offenders/nextUpdate".to_owned(),
            purpose: Purpose::Claim,
            has_body: true,
        };
        let row = self.call(asked, ClaimedRow::from_json).await?;
        Ok(row.flatten())
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, CallError> {
        let route = "GET /secure/offenders/offenderId/{offenderId}/identifiers";
        let asked = Asked {
            name: named("identifiers", route),
            method: Method::GET,
            path: format!("/secure/offenders/offenderId/{offender}/identifiers"),
            purpose: Purpose::Finish,
            has_body: true,
        };
        self.call(asked, Identifiers::from_json).await
    }

    async fn delete(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        let name = named(
            "delete",
            "DELETE /secure/offenders/update/{offenderDeltaId}",
        );
        let path = format!("/secure/offenders/update/{row}");
        self.settle(name, Method::DELETE, path).await
    }

    async fn mark_as_failed(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        let route = "PUT /secure/offenders/update/{offenderDeltaId}/markAsFailed";
        let name = named("markAsFailed", route);
        let path = format!("/secure/offenders/update/{row}/markAsFailed");
        self.settle(name, Method::PUT, path).await
    }
}
