//! What all outgoing calls have in common: how connections are made, limits on everything, and errors fit for a log.

pub mod sdk;

use std::error::Error;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, redirect};

use crate::insights;
use crate::ports::{CallError, CallErrorKind};

/// The largest answer that is read; the real ones have a few hundred bytes.
const LARGEST_BODY: usize = 1024 * 1024;
/// How long to wait at most because the other side asked for it.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);

/// A client that cannot hang, speaks HTTP/1.1 only and does not follow redirects, which no service here answers with and
/// which could carry a token elsewhere.
///
/// HTTP/2 would put all calls on one connection, and a connection that takes bytes and never answers would fail them all.
///
/// # Errors
/// If there are no root certificates on this machine.
pub fn client(connect_timeout: Duration, call_timeout: Duration) -> anyhow::Result<Client> {
    Ok(builder(connect_timeout, call_timeout).build()?)
}

/// The same, for a client with its own rule for redirects.
pub fn builder(connect_timeout: Duration, call_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .http1_only()
        .connect_timeout(connect_timeout)
        .timeout(call_timeout)
        .redirect(redirect::Policy::none())
        // Shorter than the usual idle timeouts of load balancers (60 s), so that no call meets a connection that is just
        // being closed.
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
}

/// Sends a request to `base_url`. Application Insights is told of it by `name`, which is the same for every offender.
///
/// # Errors
/// If there is no answer; an answer with whatever status is one.
pub async fn send(
    request: RequestBuilder,
    dependency: &'static str,
    base_url: &str,
    name: &'static str,
) -> Result<Response, CallError> {
    let host = base_url.split('/').nth(2).unwrap_or_default();
    let call = insights::start_call(dependency, host, name);
    let request = match call.traceparent() {
        Some((header, value)) => request.header(header, value),
        None => request,
    };
    let answer = request.send().await.map_err(not_answered);
    match &answer {
        Ok(answer) => {
            let status = answer.status();
            let is_usual = status.is_success()
                || status == StatusCode::NOT_FOUND
                || refusal_kind(status) == CallErrorKind::Contended;
            let failure = (!is_usual).then(|| format!("answered {}", status.as_u16()));
            call.ended(status.as_u16().to_string(), failure.as_deref());
        }
        Err(error) => call.ended("failed", Some(&error.cause)),
    }
    answer
}

/// Reads a body up to the limit.
///
/// # Errors
/// If it is larger, or breaks off.
pub async fn body(mut response: Response) -> Result<Vec<u8>, CallError> {
    let too_large =
        || CallError::unavailable(format!("an answer of more than {LARGEST_BODY} bytes"));
    if response
        .content_length()
        .is_some_and(|length| length > LARGEST_BODY as u64)
    {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(not_answered)? {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A call that brought no answer, and may have taken effect unless it failed while connecting.
#[must_use]
pub fn not_answered(error: reqwest::Error) -> CallError {
    let kind = if error.is_connect() || error.is_builder() {
        CallErrorKind::Unavailable
    } else {
        CallErrorKind::AnswerLost
    };
    CallError::new(kind, with_causes(&error.without_url()))
}

/// A call whose answer has a status that says no.
#[must_use]
pub fn refused(status: StatusCode, headers: &HeaderMap) -> CallError {
    CallError {
        kind: refusal_kind(status),
        retry_after: retry_after(headers),
        cause: format!("answered {}", status.as_u16()),
    }
}

fn refusal_kind(status: StatusCode) -> CallErrorKind {
    match status {
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => CallErrorKind::Contended,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CallErrorKind::Unauthorised,
        _ => CallErrorKind::Unavailable,
    }
}

/// Seconds or a date, as RFC 9110 has it.
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

/// An error with all that caused it, in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
