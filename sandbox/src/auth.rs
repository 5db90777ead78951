//! hmpps-auth: it issues bearer tokens for client credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method, Request};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::faults::{Endpoint, Faults};
use crate::http::{Answer, Reply};

/// The valid tokens. Clones share their state.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    client_id: String,
    client_secret: String,
    roles: Mutex<Arc<[String]>>,
    lifetime: Duration,
    tokens: Mutex<HashMap<String, Token>>,
    issued: AtomicU64,
}

struct Token {
    roles: Arc<[String]>,
    expires: Instant,
}

/// Why a caller is refused.
pub(crate) enum Refusal {
    NoToken,
    /// The reason, which quotes nothing from the token.
    BadToken(String),
}

impl Auth {
    pub(crate) fn new(
        client_id: String,
        client_secret: String,
        roles: Vec<String>,
        lifetime: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            client_id,
            client_secret,
            roles: Mutex::new(roles.into()),
            lifetime,
            tokens: Mutex::default(),
            issued: AtomicU64::new(0),
        }))
    }

    /// Makes every token issued so far invalid.
    pub fn revoke_all(&self) {
        self.0.tokens.lock().clear();
    }

    /// How many tokens have been issued.
    pub fn tokens_issued(&self) -> u64 {
        self.0.issued.load(Ordering::Relaxed)
    }

    /// Tokens issued from now on carry these roles.
    pub fn set_roles(&self, roles: Vec<String>) {
        *self.0.roles.lock() = roles.into();
    }

    /// Issues a token as the endpoint does, for a test that calls community-api itself.
    pub fn issue(&self) -> String {
        self.issue_token().0
    }

    fn issue_token(&self) -> (String, Value) {
        let (roles, lifetime) = (Arc::clone(&self.0.roles.lock()), self.0.lifetime);
        let id = Uuid::new_v4().to_string();
        let payload = json!({
            "sub": self.0.client_id,
            "client_id": self.0.client_id,
            "auth_source": "none",
            "grant_type": "client_credentials",
            "scope": ["read"],
            "authorities": &*roles,
            "exp": jiff::Timestamp::now().as_second().saturating_add_unsigned(lifetime.as_secs()),
            "jti": id,
        });
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "sandbox"});
        let part = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let token = format!(
            "{}.{}.{}",
            part(header.to_string().as_bytes()),
            part(payload.to_string().as_bytes()),
            part(Uuid::new_v4().as_bytes())
        );
        let answer = json!({
            "access_token": token,
            "token_type": "bearer",
            "expires_in": lifetime.as_secs(),
            "scope": "read",
            "jti": id,
        });
        let now = Instant::now();
        let mut tokens = self.0.tokens.lock();
        tokens.retain(|_, token| token.expires > now);
        tokens.insert(
            token.clone(),
            Token {
                roles,
                expires: now + lifetime,
            },
        );
        self.0.issued.fetch_add(1, Ordering::Relaxed);
        (token, answer)
    }

    pub(crate) fn roles(&self, headers: &HeaderMap) -> Result<Arc<[String]>, Refusal> {
        let token = credentials(headers, "bearer").ok_or(Refusal::NoToken)?;
        self.0
            .tokens
            .lock()
            .get(token)
            .filter(|known| known.expires > Instant::now())
            .map(|known| Arc::clone(&known.roles))
            .ok_or_else(|| Refusal::BadToken(what_is_wrong(token)))
    }

    pub(crate) async fn answer(self, faults: Faults, request: Request<Bytes>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/auth/oauth/token") => {
                let call = faults.receive(Endpoint::Token, |_| false);
                call.carry_out(async move { self.token(request.headers(), request.body()) })
                    .await
            }
            (&Method::GET, "/auth/health/ping") => {
                let call = faults.receive(Endpoint::AuthPing, |_| false);
                call.carry_out(async { Reply::actuator_up() }).await
            }
            _ => Ok(Reply::json(404, &json!({"error": "not_found"}))),
        }
    }

    fn token(&self, headers: &HeaderMap, body: &[u8]) -> Reply {
        if !self.is_client(headers) {
            return error(401, "invalid_client", "Bad client credentials")
                .header("WWW-Authenticate", r#"Basic realm="oauth2/client""#);
        }
        match form_urlencoded::parse(body).find(|(name, _)| name == "grant_type") {
            Some((_, grant)) if grant == "client_credentials" => {
                Reply::json(200, &self.issue_token().1).header("Cache-Control", "no-store")
            }
            Some((_, grant)) => error(
                400,
                "unsupported_grant_type",
                &format!("Unsupported grant type: {grant}"),
            ),
            None => error(400, "invalid_request", "Missing grant type"),
        }
    }

    fn is_client(&self, headers: &HeaderMap) -> bool {
        let given = || {
            let decoded = STANDARD.decode(credentials(headers, "basic")?).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (id, secret) = text.split_once(':')?;
            Some((form_decoded(id), form_decoded(secret)))
        };
        given().is_some_and(|(id, secret)| id == self.0.client_id && secret == self.0.client_secret)
    }
}

/// Why a token is unknown or no longer valid. Like the real one, it reads the claims of the token.
fn what_is_wrong(token: &str) -> String {
    let payload = || {
        let parts: Vec<_> = token.split('.').collect();
        let [_, payload, _] = parts[..] else {
            return None;
        };
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    };
    let expiry = payload().map(|payload| {
        let expiry = payload["exp"].as_i64().unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(expiry).unwrap_or(jiff::Timestamp::MAX)
    });
    match expiry {
        None => "Jwt is malformed".into(),
        Some(expiry) if expiry <= jiff::Timestamp::now() => format!("Jwt expired at {expiry}"),
        Some(_) => "Jwt was signed by another key".into(),
    }
}

/// The rest of the `Authorization` header after the scheme, whose case does not matter.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// Both parts of Basic credentials are form-encoded first, by RFC 6749 section 2.3.1.
fn form_decoded(part: &str) -> String {
    let pair = format!("part={part}");
    form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn error(status: u16, code: &str, description: &str) -> Reply {
    Reply::json(
        status,
        &json!({"error": code, "error_description": description}),
    )
}
