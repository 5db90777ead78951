//! What all outgoing calls have in common: how connections are made and abandoned, limits on everything, and errors
//! that are safe to log.

pub mod sdk;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, IntoUrl, Method, RequestBuilder, Response, StatusCode};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::Semaphore;

use crate::ports::{CallError, CallErrorKind};

/// The largest answer that is read. Real ones have a few hundred bytes.
const LARGEST_BODY: usize = 1024 * 1024;
/// How many characters of external text are shown.
const LONGEST_TEXT: usize = 200;
/// Answers larger than this take turns: see [`LARGE_BODIES_AT_ONCE`].
const SMALL_BODY: usize = 64 * 1024;
/// How many large answers are read at once. With [`LARGEST_BODY`], and buffers that double, they take 32 MB at most.
const LARGE_BODIES_AT_ONCE: usize = 16;
/// The longest `Retry-After` that is respected.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);
/// How long an idle connection is kept. It is long enough for the rows of a drain, but shorter than the usual poll
/// interval. So a poll does not use a connection that the other side is closing, or one to an old address.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

/// Makes HTTP calls. A clone shares the connections.
///
/// It uses HTTP/1.1 only: HTTP/2 would put all calls on one connection, and a connection that never answers would fail
/// them all. If a call gets no answer, the client abandons all idle connections, since they may be dead as well. It
/// ignores the environment's proxy settings, since a proxy would see the token.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tls: ClientConfig,
    connect_timeout: Duration,
    redirects: fn() -> Policy,
    pool: Mutex<Pool>,
    large_bodies: Semaphore,
}

/// The connections of one generation. A client of the library has exactly one pool.
#[derive(Debug)]
struct Pool {
    generation: u64,
    client: Client,
}

impl HttpClient {
    /// A client that does not follow redirects: no service sends any, and one could carry a token elsewhere. Callers
    /// limit the duration of each call.
    pub fn new(connect_timeout: Duration) -> anyhow::Result<Self> {
        Self::with_redirects(connect_timeout, Policy::none)
    }

    pub(crate) fn with_redirects(
        connect_timeout: Duration,
        redirects: fn() -> Policy,
    ) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = client(&tls, connect_timeout, redirects())?;
        Ok(Self(Arc::new(Inner {
            tls,
            connect_timeout,
            redirects,
            pool: Mutex::new(Pool {
                generation: 0,
                client,
            }),
            large_bodies: Semaphore::new(LARGE_BODIES_AT_ONCE),
        })))
    }

    pub(crate) fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder {
        self.0.pool.lock().client.request(method, url)
    }

    /// Sends a request. An answer with any status is a success.
    pub async fn send(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        self.execute(request.build()?).await
    }

    async fn execute(&self, request: reqwest::Request) -> reqwest::Result<Response> {
        let (client, generation) = {
            let pool = self.0.pool.lock();
            (pool.client.clone(), pool.generation)
        };
        // This also drops if the caller stops waiting.
        let no_answer = NoAnswer {
            http: &self.0,
            generation,
        };
        let answer = client.execute(request).await?;
        std::mem::forget(no_answer);
        Ok(answer)
    }

    /// Reads a body up to the limit. A body that stalls delays another only if both are large. If it is too large or is
    /// cut short, the answer is lost, although the call may have taken effect.
    pub async fn body(&self, mut response: Response) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        let mut turn = None;
        while let Some(chunk) = response.chunk().await.map_err(not_answered)? {
            let length = body.len() + chunk.len();
            if length > LARGEST_BODY {
                let cause = format!("the answer is larger than {LARGEST_BODY} bytes");
                return Err(CallError::new(CallErrorKind::AnswerLost, cause));
            }
            if length > SMALL_BODY && turn.is_none() {
                // The semaphore is never closed, so this cannot fail.
                turn = Some(self.0.large_bodies.acquire().await);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn client(
    tls: &ClientConfig,
    connect_timeout: Duration,
    redirects: Policy,
) -> reqwest::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .http1_only()
        .no_proxy()
        .connect_timeout(connect_timeout)
        .redirect(redirects)
        .pool_idle_timeout(IDLE_CONNECTION)
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
        .build()
}

/// A call that has no answer yet. If this is dropped, its connections are abandoned.
struct NoAnswer<'a> {
    http: &'a Inner,
    generation: u64,
}

impl Drop for NoAnswer<'_> {
    fn drop(&mut self) {
        let http = self.http;
        let mut pool = http.pool.lock();
        // Another call may have abandoned them already.
        if pool.generation == self.generation
            && let Ok(client) = client(&http.tls, http.connect_timeout, (http.redirects)())
        {
            pool.client = client;
            pool.generation += 1;
        }
    }
}

/// A call without an answer. It may have taken effect, unless it failed while connecting.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
pub fn not_answered(error: reqwest::Error) -> CallError {
    let kind = if error.is_connect() || error.is_builder() {
        CallErrorKind::Unavailable
    } else {
        CallErrorKind::AnswerLost
    };
    CallError::new(kind, cause_of(&error))
}

/// The host of an address, and its port if that is given.
pub fn host_of(url: &str) -> &str {
    url.split('/').nth(2).unwrap_or_default()
}

/// A call whose answer has an error status.
pub fn refused(status: StatusCode, headers: &HeaderMap) -> CallError {
    CallError {
        kind: refusal_kind(status),
        retry_after: retry_after(headers),
        cause: format!("answered {}{}", status.as_u16(), refusal_reason(headers)),
    }
}

/// Why a token was refused (RFC 6750, section 3), from a fixed list, since the text comes from outside.
fn refusal_reason(headers: &HeaderMap) -> &'static str {
    const REASONS: [(&str, &str); 5] = [
        ("expired", ": the token has expired"),
        ("signature", ": the token is signed with another key"),
        ("algorithm", ": the token is signed with another key"),
        ("malformed", ": the token is malformed"),
        ("invalid_token", ": the token is not valid"),
    ];
    let said = headers.get(WWW_AUTHENTICATE);
    let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
    let said = said.to_ascii_lowercase();
    let reason = REASONS.iter().find(|(sign, _)| said.contains(sign));
    reason.map_or("", |(_, reason)| reason)
}

fn refusal_kind(status: StatusCode) -> CallErrorKind {
    match status {
        StatusCode::CONFLICT => CallErrorKind::Contended,
        StatusCode::UNAUTHORIZED => CallErrorKind::TokenRefused,
        StatusCode::FORBIDDEN => CallErrorKind::Unauthorised,
        _ => CallErrorKind::Unavailable,
    }
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => jiff::fmt::rfc2822::parse(value)
            .ok()?
            .timestamp()
            .duration_since(jiff::Timestamp::now())
            .try_into()
            .ok()?,
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// Why a call failed, from a fixed list. A library's text may quote the request.
pub fn cause_of(error: &(dyn Error + 'static)) -> String {
    let mut known: Vec<String> = causes(error).filter_map(known_cause).collect();
    known.dedup();
    if known.is_empty() {
        "the call failed".to_owned()
    } else {
        known.join(": ")
    }
}

pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn known_cause(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        let cause = match error {
            error if error.is_connect() => "cannot connect",
            error if error.is_timeout() => "no answer in time",
            error if error.is_builder() => "the request could not be made",
            error if error.is_body() || error.is_decode() => "the answer was cut short",
            _ => "the connection was lost",
        };
        return Some(cause.to_owned());
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        // What an io::Error wraps is not among its causes.
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(tls) = tls {
            return Some(tls.to_string());
        }
        let is_dns = |error: &std::io::Error| error.to_string().starts_with("failed to lookup");
        let is_plain = error.raw_os_error().is_some() || is_dns(error);
        return is_plain.then(|| error.to_string());
    }
    if let Some(error) = error.downcast_ref::<CredentialsError>() {
        let cause = match error {
            CredentialsError::CredentialsNotLoaded(_) => "no credentials found",
            CredentialsError::ProviderTimedOut(_) => "the credentials did not arrive in time",
            CredentialsError::InvalidConfiguration(_) => {
                "the settings for credentials are not valid"
            }
            _ => "no credentials",
        };
        return Some(cause.to_owned());
    }
    let error = error.downcast_ref::<rustls::Error>()?;
    Some(error.to_string())
}

/// Text from outside as a log, terminal or browser can show it: printable, on one line, and short.
pub fn printable(text: &str) -> String {
    // Debug escapes what cannot be printed, and also quotes and backslashes.
    let is_printable = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    let shown = text.chars().map(|c| if is_printable(c) { c } else { ' ' });
    shown.take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_has_a_reason_from_a_fixed_list() {
        for (said, reason) in [
            (
                "error_description=\"An error occurred while attempting to decode the Jwt: Jwt expired at 2026-11-26T10:00:00Z\"",
                ": the token has expired",
            ),
            (
                "error_description=\"Signed JWT rejected: Invalid signature\"",
                ": the token is signed with another key",
            ),
            (
                "error_description=\"Malformed token\"",
                ": the token is malformed",
            ),
            ("error_description=\"X123456\"", ": the token is not valid"),
        ] {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer error=\"invalid_token\", {said}");
            headers.insert(WWW_AUTHENTICATE, value.parse().unwrap());
            let error = refused(StatusCode::UNAUTHORIZED, &headers);
            assert_eq!(error.cause, format!("answered 401{reason}"));
        }
        let error = refused(StatusCode::FORBIDDEN, &HeaderMap::new());
        assert_eq!(error.cause, "answered 403");
    }

    #[tokio::test]
    async fn errors_show_causes_but_never_the_request() {
        let http = HttpClient::new(Duration::from_secs(2)).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let hang_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let request = http.request(Method::GET, format!("http://{taken}/X123456"));
        let error = not_answered(http.send(request).await.unwrap_err());
        hang_up.join().unwrap();
        assert_eq!(error.kind, CallErrorKind::AnswerLost);
        assert!(
            error.cause.starts_with("the connection was lost"),
            "{error}"
        );
        for (url, cause) in [
            (
                "http://127.0.0.1:1/X123456",
                "cannot connect: Connection refused (os error 111)",
            ),
            (
                "http://nowhere.invalid/X123456",
                "cannot connect: failed to lookup address information",
            ),
            ("http:/\\X123456:x", "the request could not be made"),
        ] {
            let error = match http.request(Method::GET, url).build() {
                Ok(request) => http.execute(request).await.unwrap_err(),
                Err(error) => error,
            };
            let error = not_answered(error);
            assert_eq!(error.kind, CallErrorKind::Unavailable, "{error}");
            assert!(
                error.cause.starts_with(cause) && !error.cause.contains("X123"),
                "{error}"
            );
        }
    }

    /// Answers each request with the start of a body. `/whole` gets the rest as well.
    async fn starts_bodies() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let length = stream.read(&mut request).await.unwrap();
                    let rest = if request[..length].starts_with(b"GET /whole") {
                        "rest"
                    } else {
                        ""
                    };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbody{rest}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    std::future::pending::<()>().await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_stalled_body_does_not_block_others() {
        let address = starts_bodies().await;
        let http = HttpClient::new(Duration::from_secs(2)).unwrap();
        let read = async |path: &str| {
            let request = http.request(Method::GET, format!("{address}{path}"));
            http.body(http.send(request).await.unwrap()).await
        };
        let stalled = (0..2 * LARGE_BODIES_AT_ONCE).map(|_| read("/stalls"));
        tokio::select! {
            _ = futures_util::future::select_all(stalled.map(Box::pin)) => panic!("a stalled body ended"),
            body = read("/whole") => assert_eq!(body.unwrap(), b"bodyrest"),
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("86400"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(
            read("Wed, 21 Oct 2099 07:28:00 GMT"),
            Some(LONGEST_RETRY_AFTER)
        );
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
    }
}
