//! community-api: the four calls for rows and identifiers, and its ping.

use std::io::{Write, stderr};
use std::time::Duration;

use anyhow::Result;
use hyper::body::Bytes;
use hyper::header::ACCEPT;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request};
use serde_json::json;

use crate::auth::{Auth, Refusal};
use crate::claimed_rows::ClaimedRows;
use crate::crowd::Crowd;
use crate::delius::{Attempt, Claim, Delius};
use crate::faults::{Endpoint, Fault, Faults};
use crate::http::{Answer, Reply, sleep_precisely};

const EVENTS: &str = "ROLE_COMMUNITY_EVENTS";
const COMMUNITY: &str = "ROLE_COMMUNITY";

#[derive(Clone)]
pub(crate) struct Community {
    pub(crate) delius: Delius,
    pub(crate) auth: Auth,
    pub(crate) faults: Faults,
    /// The time of a single caller.
    pub(crate) lock_time: Duration,
    pub(crate) crowd: Crowd,
    pub(crate) claimed_rows: ClaimedRows,
}

#[derive(Clone, Copy)]
struct Ask {
    endpoint: Endpoint,
    id: i64,
}

enum Wrong {
    Path,
    /// The path allows only this method.
    Method(Method),
    /// The id is not a number.
    Id,
}

impl Ask {
    fn read(method: &Method, path: &str) -> Result<Self, Wrong> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let (endpoint, id, allowed) = match parts[..] {
            ["health", "ping"] => (Endpoint::CommunityPing, "0", Method::GET),
            ["secure", "offenders", "nextUpdate"] => (Endpoint::NextUpdate, "0", Method::GET),
            ["secure", "offenders", "offenderId", id, "identifiers"] => {
                (Endpoint::Identifiers, id, Method::GET)
            }
            ["secure", "offenders", "update", id] => (Endpoint::DeleteUpdate, id, Method::DELETE),
            ["secure", "offenders", "update", id, "markAsFailed"] => {
                (Endpoint::MarkAsFailed, id, Method::PUT)
            }
            _ => return Err(Wrong::Path),
        };
        // A HEAD does what a GET does. It claims rows, too.
        if *method != allowed && !(method == Method::HEAD && allowed == Method::GET) {
            return Err(Wrong::Method(allowed));
        }
        let id = id.parse().map_err(|_| Wrong::Id)?;
        Ok(Self { endpoint, id })
    }

    fn role(self) -> &'static str {
        match self.endpoint {
            Endpoint::Identifiers => COMMUNITY,
            _ => EVENTS,
        }
    }
}

impl Community {
    pub(crate) async fn answer(self, request: Request<Bytes>) -> Answer {
        let (head, _) = request.into_parts();
        let ask = match Ask::read(&head.method, head.uri.path()) {
            Ok(ask) => ask,
            Err(wrong) => return Ok(self.refuse_wrong(&wrong, &head)),
        };
        let call = self.faults.receive(ask.endpoint, |offender| {
            ask.endpoint == Endpoint::Identifiers && ask.id == offender
        });
        let raced = matches!(call.fault, Some(Fault::Race));
        call.carry_out(async move { self.effect(ask, &head, raced).await })
            .await
    }

    fn refuse_wrong(&self, wrong: &Wrong, head: &Parts) -> Reply {
        if let Err(refusal) = self.auth.roles(&head.headers) {
            return refuse(&refusal, &head.method);
        }
        let path = head.uri.path();
        match wrong {
            Wrong::Path => Reply::problem(404, path),
            Wrong::Method(allowed) => Reply::problem(405, path).header("Allow", allowed.as_str()),
            Wrong::Id => Reply::problem(400, path),
        }
    }

    async fn effect(&self, ask: Ask, head: &Parts, raced: bool) -> Reply {
        if ask.endpoint == Endpoint::CommunityPing {
            return Reply::actuator_up();
        }
        let roles = match self.auth.roles(&head.headers) {
            Ok(roles) => roles,
            Err(refusal) => return refuse(&refusal, &head.method),
        };
        if !accepts_json(&head.headers) {
            return Reply::empty(406);
        }
        if !roles.iter().any(|role| role == ask.role()) {
            return Reply::error(403, "Access is denied");
        }
        let reply = match ask.endpoint {
            Endpoint::NextUpdate => self.next_update().await,
            Endpoint::Identifiers => self.identifiers(ask.id).await,
            _ => self.settle(ask, raced, head.uri.path()).await,
        };
        reply.unwrap_or_else(|error| {
            // Like the real one, it shows the cause only in its log.
            let _ = writeln!(stderr(), "community-api answers 500: {error:#}");
            Reply::problem(500, head.uri.path())
        })
    }

    async fn next_update(&self) -> Result<Reply> {
        let mut claim = Claim::default();
        loop {
            let attempt = move |delius: &Delius| delius.attempt(claim, now());
            let candidate = match self.delius.patiently(attempt).await? {
                Attempt::Row(candidate, rest) => {
                    claim = rest;
                    candidate
                }
                Attempt::Nothing => return Ok(Reply::error(404, "No updates found")),
                Attempt::Conflict => return Ok(Reply::json(409, &json!({"status": 409}))),
            };
            // Other callers may come in between, and read the same row.
            let caller = self.crowd.enter();
            sleep_precisely(caller.time(self.lock_time)).await;
            let lock = move |delius: &Delius| delius.lock(&candidate, now());
            if let Some(row) = self.delius.patiently(lock).await? {
                self.claimed_rows.claimed(&row);
                return Ok(Reply::json(200, &row));
            }
        }
    }

    async fn identifiers(&self, offender: i64) -> Result<Reply> {
        let found = self
            .delius
            .patiently(move |delius| delius.identifiers(offender))
            .await?;
        self.claimed_rows.identified(offender, found.is_some());
        Ok(match found {
            Some(found) => Reply::json(
                200,
                &json!({
                    "offenderId": offender,
                    "primaryIdentifiers": found,
                    "additionalIdentifiers": found.additional,
                }),
            ),
            None => Reply::error(404, "No offender found"),
        })
    }

    /// Reads the row and changes it in two steps. If another transaction changes it in between, the answer is 500.
    async fn settle(&self, ask: Ask, raced: bool, path: &str) -> Result<Reply> {
        let (id, delete) = (ask.id, ask.endpoint == Endpoint::DeleteUpdate);
        let version = self.delius.patiently(move |delius| delius.version(id));
        let Some(version) = version.await? else {
            return Ok(if delete {
                Reply::error(404, "Update not found")
            } else {
                let message = format!("Cannot mark as failed for offenderDeltaId {id}");
                Reply::error(404, &message)
            });
        };
        tokio::task::yield_now().await;
        let change = move |delius: &Delius| {
            if delete {
                delius.delete_version(id, version)
            } else {
                delius.mark_version(id, version, now())
            }
        };
        if raced || !self.delius.patiently(change).await? {
            return Ok(Reply::problem(500, path));
        }
        let how = if delete {
            "deleted"
        } else {
            "marked as failed"
        };
        self.claimed_rows.settled(id, how);
        Ok(Reply::empty(200))
    }
}

/// Whether `Accept` allows JSON. A missing header does.
fn accepts_json(headers: &HeaderMap) -> bool {
    let mut accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|range| !range.trim().is_empty())
        .peekable();
    let is_json = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let refused = parts
            .filter_map(|part| part.strip_prefix("q="))
            .any(|quality| quality.parse::<f32>().is_ok_and(|quality| quality <= 0.0));
        let json = ["*/*", "application/*", "application/json"];
        !refused
            && json
                .iter()
                .any(|json| json.eq_ignore_ascii_case(media_type))
    };
    accepted.peek().is_none() || accepted.any(is_json)
}

/// Like the real one, it takes a call that changes something and has no token for a forged form, and answers 403.
fn refuse(refusal: &Refusal, method: &Method) -> Reply {
    let challenge = match refusal {
        Refusal::NoToken if method != Method::GET && method != Method::HEAD => {
            return Reply::error(403, "Access is denied");
        }
        Refusal::NoToken => "Bearer".to_owned(),
        Refusal::BadToken(why) => {
            format!(r#"Bearer error="invalid_token", error_description="{why}""#)
        }
    };
    Reply::empty(401).header("WWW-Authenticate", &challenge)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
