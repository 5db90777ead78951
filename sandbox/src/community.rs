//! community-api: the five calls on `OFFENDER_DELTA` and the offenders' identifiers.

use std::time::Duration;

use anyhow::Result;
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request};
use serde_json::json;

use crate::auth::{Auth, Refusal};
use crate::delius::Delius;
use crate::faults::{Endpoint, Faults};
use crate::http::{Answer, Reply};

/// So often does one `nextUpdate` try to lock a row before it answers 409.
const LOCK_ATTEMPTS: usize = 10;
const EVENTS: &str = "ROLE_COMMUNITY_EVENTS";
const COMMUNITY: &str = "ROLE_COMMUNITY";

#[derive(Clone)]
pub(crate) struct Community {
    pub(crate) delius: Delius,
    pub(crate) auth: Auth,
    pub(crate) faults: Faults,
    pub(crate) lock_time: Duration,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Ask {
    Next,
    Identifiers(i64),
    Delete(i64),
    MarkAsFailed(i64),
    Ping,
}

impl Ask {
    fn read(method: &Method, path: &str) -> Option<Self> {
        if (method, path) == (&Method::GET, "/health/ping") {
            return Some(Self::Ping);
        }
        let path = path.strip_prefix("/secure/offenders/")?;
        match *method {
            Method::GET if path == "nextUpdate" => Some(Self::Next),
            Method::GET => {
                let id = path
                    .strip_prefix("offenderId/")?
                    .strip_suffix("/identifiers")?;
                Some(Self::Identifiers(id.parse().ok()?))
            }
            Method::DELETE => Some(Self::Delete(path.strip_prefix("update/")?.parse().ok()?)),
            Method::PUT => {
                let id = path
                    .strip_prefix("update/")?
                    .strip_suffix("/markAsFailed")?;
                Some(Self::MarkAsFailed(id.parse().ok()?))
            }
            _ => None,
        }
    }

    fn endpoint(self) -> Endpoint {
        match self {
            Self::Next => Endpoint::NextUpdate,
            Self::Identifiers(_) => Endpoint::Identifiers,
            Self::Delete(_) => Endpoint::DeleteUpdate,
            Self::MarkAsFailed(_) => Endpoint::MarkAsFailed,
            Self::Ping => Endpoint::CommunityPing,
        }
    }

    fn role(self) -> Option<&'static str> {
        match self {
            Self::Next | Self::Delete(_) | Self::MarkAsFailed(_) => Some(EVENTS),
            Self::Identifiers(_) => Some(COMMUNITY),
            Self::Ping => None,
        }
    }
}

impl Community {
    pub(crate) async fn answer(self, request: Request<Bytes>) -> Answer {
        let Some(ask) = Ask::read(request.method(), request.uri().path()) else {
            return Ok(Reply::error(404, "No such resource"));
        };
        let call = self.faults.receive(
            ask.endpoint(),
            |offender| matches!(ask, Ask::Identifiers(id) if id == offender),
        );
        call.carry_out(async move { self.effect(ask, request.headers()).await })
            .await
    }

    async fn effect(&self, ask: Ask, headers: &HeaderMap) -> Reply {
        if let Some(role) = ask.role()
            && let Err(refusal) = self.auth.check(headers, role)
        {
            return refuse(&refusal);
        }
        let reply = match ask {
            Ask::Next => self.next_update().await,
            Ask::Identifiers(offender) => self.identifiers(offender),
            Ask::Delete(id) => self.delius.delete_update(id).map(|found| done(found, id)),
            Ask::MarkAsFailed(id) => self
                .delius
                .mark_failed(id, now())
                .map(|found| done(found, id)),
            Ask::Ping => Ok(Reply::json(200, &json!({"status": "UP"}))),
        };
        reply.unwrap_or_else(|error| Reply::error(500, &format!("{error:#}")))
    }

    async fn next_update(&self) -> Result<Reply> {
        for _ in 0..LOCK_ATTEMPTS {
            let Some(candidate) = self.delius.claim_candidate(now())? else {
                return Ok(Reply::error(404, "No updates found"));
            };
            // The real one reads and locks in separate steps as well; here other callers come in
            // between.
            if self.lock_time.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(self.lock_time).await;
            }
            if let Some(row) = self.delius.lock(&candidate, now())? {
                return Ok(Reply::json(200, &row));
            }
        }
        Ok(Reply::error(
            409,
            "Unable to lock an update: other callers were faster",
        ))
    }

    fn identifiers(&self, offender_id: i64) -> Result<Reply> {
        Ok(match self.delius.identifiers(offender_id)? {
            Some(identifiers) => Reply::json(
                200,
                &json!({"offenderId": offender_id, "primaryIdentifiers": identifiers}),
            ),
            None => Reply::error(404, &format!("Offender with id {offender_id} not found")),
        })
    }
}

fn done(found: bool, id: i64) -> Reply {
    if found {
        Reply::empty(200)
    } else {
        Reply::error(404, &format!("Update with id {id} not found"))
    }
}

fn refuse(refusal: &Refusal) -> Reply {
    let (status, code, description) = match refusal {
        Refusal::NoToken => (
            401,
            "unauthorized",
            "Full authentication is required to access this resource",
        ),
        Refusal::UnknownToken => (401, "invalid_token", "Invalid or expired access token"),
        Refusal::MissingRole => (403, "access_denied", "Access is denied"),
    };
    let reply = Reply::json(
        status,
        &json!({"error": code, "error_description": description}),
    );
    if status == 403 {
        return reply;
    }
    let challenge = format!(
        r#"Bearer realm="oauth2-resource", error="{code}", error_description="{description}""#
    );
    reply.header("WWW-Authenticate", &challenge)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
