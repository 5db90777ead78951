//! The token for community-api: OAuth2 client credentials from hmpps-auth, fetched once for all callers and renewed
//! early.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::{Mutex, MutexGuard};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use crate::calls::{Call, CallName};
use crate::fields::Fields;
use crate::http::{self, HttpClient};
use crate::insights::Operation;
use crate::metrics::Metrics;
use crate::outcome::Dependency;
use crate::ports::{CallError, CallErrorKind};
use crate::single_flight::Flight;

const FETCH: CallName = CallName {
    dependency: Dependency::Auth,
    call: "token",
    route: "POST /oauth/token",
};
/// A token is renewed this long before it expires or, if it lives for a minute or less, at half of its life.
const RENEWED_EARLY: Duration = Duration::from_mins(1);
/// Lifetime to assume when `expires_in` is missing. A refused token is replaced anyway.
const ASSUMED_LIFE: Duration = Duration::from_mins(5);
/// After a new token was refused, no refusal causes another fetch for this long.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);
/// A token is assumed to live at least this long, so that a lifetime of 0 does not cost a token per call.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);
/// The pause after a failed fetch. It doubles with each further failure, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fetches and keeps the token. Clones share their state.
#[derive(Clone, Debug)]
pub struct TokenSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: HttpClient,
    endpoint: String,
    client_id: String,
    client_secret: SecretString,
    fetch_timeout: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    fetch: Option<Flight<Result<Token, CallError>>>,
    /// The fetches that have failed since the last success.
    failures: u32,
    /// The last failure. All callers get it until the next fetch is due.
    failed: Option<(CallError, Instant)>,
    /// Until then, a refusal does not cause another fetch.
    refused_until: Option<Instant>,
}

/// A token as the header that carries it. It is marked as sensitive, so nothing prints it.
#[derive(Clone, Debug)]
pub struct Token {
    /// The value of the Authorization header.
    pub authorization: HeaderValue,
    renew_at: Instant,
    expires_at: Instant,
}

impl Token {
    /// The roles in the token, if it is a JWT. community-api checks its signature.
    pub fn roles(&self) -> Option<Vec<String>> {
        let token = self.authorization.to_str().ok()?.strip_prefix("Bearer ")?;
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims = Fields::of(&payload, &["authorities"]).ok()?;
        let roles = claims.present("authorities").unwrap_or_default();
        let roles: Vec<Value> = serde_json::from_str(roles).unwrap_or_default();
        let roles = roles.iter().filter_map(Value::as_str);
        Some(roles.map(str::to_owned).collect())
    }
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To claim a row. The token must not be about to expire, since later calls for the row need one.
    Claim,
    /// To finish rows that are claimed already. The old token will do until it expires.
    Finish,
}

impl TokenSource {
    /// Fetches nothing until [`Self::get`].
    pub fn new(
        http: HttpClient,
        auth_url: &str,
        client_id: String,
        client_secret: SecretString,
        fetch_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            http,
            endpoint: format!("{auth_url}/oauth/token"),
            client_id,
            client_secret,
            fetch_timeout,
            metrics,
            state: Mutex::default(),
        }))
    }

    /// Returns the kept token, or a new one. One fetch serves all callers, even if it fails, and continues if a caller
    /// stops waiting. After a failed fetch, callers get its error until the next fetch is due, so hmpps-auth does not
    /// get one request per caller.
    pub async fn get(&self, purpose: Purpose) -> Result<Token, CallError> {
        let fetch = {
            let mut state = self.0.state();
            let now = Instant::now();
            let (fresh, alive) = match &state.token {
                Some(token) => (now < token.renew_at, now < token.expires_at),
                None => (false, false),
            };
            if let Some(token) = state.token.clone().filter(|_| fresh) {
                return Ok(token);
            }
            let old = state
                .token
                .clone()
                .filter(|_| alive && purpose == Purpose::Finish);
            let failed = state.failed.as_ref().filter(|(_, until)| now < *until);
            match (old, failed) {
                (Some(old), Some(_)) => return Ok(old),
                (Some(old), None) => {
                    // In the background, since the old one is still good.
                    drop(self.fetch(&mut state));
                    return Ok(old);
                }
                (None, Some((error, _))) => return Err(error.clone()),
                (None, None) => self.fetch(&mut state),
            }
        };
        let broke_off = || {
            CallError::new(
                CallErrorKind::NoToken,
                "the task that requests a token ended early",
            )
        };
        fetch.await.unwrap_or_else(|| Err(broke_off()))
    }

    /// Forgets a refused token, unless it has been replaced already. Returns whether to try another one.
    #[must_use]
    pub fn refused(&self, refused: &Token) -> bool {
        let mut state = self.0.state();
        let now = Instant::now();
        let is_kept = |token: &Token| token.authorization == refused.authorization;
        if state.token.as_ref().is_some_and(is_kept) {
            if state.refused_until.is_some_and(|until| now < until) {
                return false;
            }
            state.token = None;
        }
        true
    }

    /// Records that a token fetched after a refusal was refused as well. A third would be no better, so for some
    /// seconds no refusal causes another fetch.
    pub fn new_one_refused(&self, refused: &Token) {
        let mut state = self.0.state();
        let is_kept = |token: &Token| token.authorization == refused.authorization;
        if state.token.as_ref().is_some_and(is_kept) {
            state.refused_until = Some(Instant::now() + REFUSAL_PAUSE);
        }
    }

    /// Joins the current fetch, or starts one.
    fn fetch(
        &self,
        state: &mut State,
    ) -> impl Future<Output = Option<Result<Token, CallError>>> + use<> {
        match &state.fetch {
            Some(fetch) if fetch.is_under_way() => fetch.result(),
            _ => {
                let inner = self.0.clone();
                // Sent as part of the operation that needed it first.
                let operation = Operation::current();
                let fetch =
                    Flight::start(operation.scope(async move { inner.fetch_and_keep().await }));
                state.fetch.insert(fetch).result()
            }
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn fetch_and_keep(&self) -> Result<Token, CallError> {
        let mut call = Call::start(&self.metrics, FETCH, http::host_of(&self.endpoint));
        let fetched = self.request(&mut call).await;
        call.ended(fetched.as_ref().err());
        let mut state = self.state();
        match fetched {
            Ok(token) => {
                state.token = Some(token.clone());
                (state.failures, state.failed) = (0, None);
                Ok(token)
            }
            Err(error) => {
                let error = CallError {
                    // Callers need to know only that the call was not made.
                    kind: CallErrorKind::NoToken,
                    cause: format!("no token from hmpps-auth: {}", error.cause),
                    ..error
                };
                let pause = pause_after(state.failures).max(error.retry_after.unwrap_or_default());
                state.failures += 1;
                state.failed = Some((error.clone(), Instant::now() + pause));
                Err(error)
            }
        }
    }

    async fn request(&self, call: &mut Call<'_>) -> Result<Token, CallError> {
        let asked_at = Instant::now();
        let secret = form_encoded(self.client_secret.expose_secret());
        let request = self
            .http
            .request(Method::POST, &self.endpoint)
            .timeout(self.fetch_timeout)
            .basic_auth(form_encoded(&self.client_id), Some(secret))
            .header(ACCEPT, "application/json")
            .form(&[("grant_type", "client_credentials"), ("scope", "read")]);
        let response = call.send(&self.http, request).await?;
        let status = response.status();
        if status.as_u16() == 400 || status.as_u16() == 401 {
            let advice = "check OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET";
            let cause = format!("answered {}: {advice}", status.as_u16());
            return Err(CallError::new(CallErrorKind::Unauthorised, cause));
        }
        if !status.is_success() {
            return Err(http::refused(status, response.headers()));
        }
        read(&self.http.body(response).await?, asked_at).map_err(CallError::unavailable)
    }
}

/// The pause after a failed fetch, when this many had failed before it.
fn pause_after(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(16));
    doubled.min(LONGEST_PAUSE)
}

/// The parts of Basic credentials are form-urlencoded first (RFC 6749, section 2.3.1).
fn form_encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Reads the answer from the token endpoint. The request was sent at `asked_at`. An error never quotes a value.
pub fn read(body: &[u8], asked_at: Instant) -> Result<Token, String> {
    let fields = Fields::of(body, &["access_token", "token_type", "expires_in"]);
    let fields = fields.map_err(|problem| problem.to_string())?;
    let kind = fields.optional_text("token_type");
    let kind = kind.map_err(|_| "token_type is not bearer")?;
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("token_type is not bearer".to_owned());
    }
    let mut authorization =
        HeaderValue::from_str(&format!("Bearer {}", fields.text("access_token")?))
            .map_err(|_| "access_token has characters that a header cannot contain")?;
    authorization.set_sensitive(true);
    let life = fields.present("expires_in").and_then(seconds);
    let life = life.unwrap_or(ASSUMED_LIFE).max(SHORTEST_LIFE);
    let used_for = match life.checked_sub(RENEWED_EARLY) {
        Some(used) if life > RENEWED_EARLY => used.max(SHORTEST_LIFE),
        _ => life / 2,
    };
    Ok(Token {
        authorization,
        renew_at: asked_at + used_for,
        expires_at: asked_at + life,
    })
}

/// Reads a number, or a string that contains one. At most a year: no token lives longer, and more could overflow a
/// clock.
fn seconds(json: &str) -> Option<Duration> {
    let text: String = serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
    let seconds: f64 = text.trim().parse().ok()?;
    if !seconds.is_finite() {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(31_536_000.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(json: &str) -> Result<(u64, u64), String> {
        let now = Instant::now();
        let token = read(json.as_bytes(), now)?;
        Ok((
            (token.renew_at - now).as_secs(),
            (token.expires_at - now).as_secs(),
        ))
    }

    #[test]
    fn a_token_is_renewed_a_minute_before_it_expires() {
        for (expires_in, expected) in [
            (r#","expires_in":3600"#, (3540, 3600)),
            (r#","expires_in":"3600""#, (3540, 3600)),
            (r#","expires_in":3600.5"#, (3540, 3600)),
            (r#","expires_in":60.001"#, (10, 60)),
            (r#","expires_in":40"#, (20, 40)),
            (r#","expires_in":0"#, (5, 10)),
            ("", (240, 300)),
            (r#","expires_in":null"#, (240, 300)),
            (r#","expires_in":"soon""#, (240, 300)),
            (r#","expires_in":"NaN""#, (240, 300)),
            (r#","expires_in":"inf""#, (240, 300)),
            (r#","expires_in":-5"#, (240, 300)),
            (r#","expires_in":1e300"#, (31_535_940, 31_536_000)),
        ] {
            let json = format!(r#"{{"access_token":"abc","token_type":"Bearer"{expires_in}}}"#);
            assert_eq!(life(&json), Ok(expected), "{expires_in}");
        }
    }

    #[test]
    fn an_unusable_token_is_refused_without_quoting_it() {
        for (json, problem) in [
            ("", "the body is empty"),
            ("null", "the body is empty"),
            ("[]", "the body is not a JSON object"),
            ("<", "the body is not JSON"),
            ("{}", "access_token is missing"),
            (r#"{"access_token":7}"#, "access_token is not a string"),
            (r#"{"access_token":""}"#, "access_token is empty"),
            (
                r#"{"access_token":"a\nb"}"#,
                "access_token has characters that a header cannot contain",
            ),
            (
                r#"{"access_token":"a","token_type":"mac"}"#,
                "token_type is not bearer",
            ),
            (
                r#"{"access_token":"a","token_type":1}"#,
                "token_type is not bearer",
            ),
        ] {
            assert_eq!(life(json), Err(problem.to_owned()), "{json}");
        }
        assert!(life(r#"{"access_token":"a","token_type":"bEaReR"}"#).is_ok());
    }

    #[test]
    fn roles_are_read_from_a_jwt() {
        let roles = |token: &str| {
            let json = format!(r#"{{"access_token":"{token}"}}"#);
            read(json.as_bytes(), Instant::now()).unwrap().roles()
        };
        let jwt = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        let held = jwt(r#"{"authorities":["ROLE_A","ROLE_B",7]}"#);
        assert_eq!(roles(&held), Some(vec!["ROLE_A".into(), "ROLE_B".into()]));
        assert_eq!(roles(&jwt("{}")), Some(Vec::new()));
        assert_eq!(roles(&jwt(r#"{"authorities":"ROLE_A"}"#)), Some(Vec::new()));
        for opaque in ["abc", "a.b", "a.!.c", &jwt("[]"), &jwt("SECRET")] {
            assert_eq!(roles(opaque), None, "{opaque}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = read(br#"{"access_token":"abc"}"#, Instant::now()).unwrap();
        assert!(!format!("{token:?}").contains("abc"));
    }
}
