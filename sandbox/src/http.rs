//! The HTTP server of all three stand-ins: small, able to close a connection without an answer, and as inconsiderate
//! with connections as the real community-api.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::faults::{Call, Fault};

/// The largest body that is read. SNS' own limit is a quarter of it.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;
/// A body that takes longer than this is taken to be endless.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// A connection is closed after this time without a request.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// An answer, or none. The connection is then closed.
pub(crate) type Answer = Result<Reply, Dropped>;

#[derive(Debug)]
pub(crate) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("connection dropped")
    }
}

impl std::error::Error for Dropped {}

#[derive(Debug)]
pub(crate) struct Reply(Response<Full<Bytes>>);

impl Reply {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(response).header(CONTENT_TYPE.as_str(), content_type)
    }

    pub(crate) fn empty(status: u16) -> Self {
        let mut response = Response::new(Full::default());
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(response)
    }

    pub(crate) fn json(status: u16, body: &impl Serialize) -> Self {
        // All keys are strings, so every answer of the sandbox can be written as JSON.
        Self::new(
            status,
            "application/json",
            serde_json::to_vec(body).unwrap_or_default(),
        )
    }

    /// What Spring's actuator answers to a ping.
    pub(crate) fn actuator_up() -> Self {
        let body = r#"{"status":"UP"}"#;
        Self::new(200, "application/vnd.spring-boot.actuator.v3+json", body)
    }

    /// An error in Spring's form, for 400, 405, 500 and unknown paths.
    pub(crate) fn problem(status: u16, path: &str) -> Self {
        let reason = StatusCode::from_u16(status).ok();
        Self::json(
            status,
            &json!({
                "timestamp": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string(),
                "status": status,
                "error": reason.and_then(|status| status.canonical_reason()).unwrap_or_default(),
                "path": path,
            }),
        )
    }

    /// An error in community-api's form.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        Self::json(
            status,
            &json!({"status": status, "developerMessage": message}),
        )
    }

    /// Adds a header, unless it is invalid.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.0.headers_mut().append(name, value);
        }
        self
    }
}

impl Call {
    /// Lets the effect take place if the fault allows it, and answers accordingly.
    pub(crate) async fn carry_out(
        self,
        effect: impl Future<Output = Reply> + Send + 'static,
    ) -> Answer {
        if matches!(self.fault, Some(Fault::Hang)) {
            return pending().await;
        }
        let (latency, fault) = (self.latency, self.fault);
        if latency.is_zero() {
            return settle(fault, effect).await;
        }
        // A separate task: like a real server, it does not notice that its caller has stopped waiting.
        let late = tokio::spawn(async move {
            sleep_precisely(latency).await;
            settle(fault, effect).await
        });
        late.await.unwrap_or(Err(Dropped))
    }
}

/// The precision of the timer.
const ROUGH: Duration = Duration::from_millis(2);

/// Tokio's timer rounds up to the next millisecond, which is too coarse for a latency of a few
/// milliseconds. Even without a duration, other tasks get a turn.
pub(crate) async fn sleep_precisely(duration: Duration) {
    if duration.is_zero() {
        return tokio::task::yield_now().await;
    }
    let due = tokio::time::Instant::now() + duration;
    tokio::time::sleep(duration.saturating_sub(ROUGH)).await;
    let rest = due.saturating_duration_since(tokio::time::Instant::now());
    // It can fail only at the end of the runtime, when no one waits any more.
    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(rest)).await;
}

async fn settle(fault: Option<Fault>, effect: impl Future<Output = Reply>) -> Answer {
    match fault {
        Some(Fault::Answer {
            status,
            content_type,
            body,
            headers,
        }) => {
            let reply = Reply::new(status, &content_type, body);
            Ok(headers
                .iter()
                .fold(reply, |reply, (name, value)| reply.header(name, value)))
        }
        Some(Fault::DropConnection) => Err(Dropped),
        Some(Fault::LoseAnswer) => {
            effect.await;
            Err(Dropped)
        }
        Some(Fault::AnswerAfterEffect(status)) => {
            effect.await;
            Ok(Reply::error(status, "Injected fault"))
        }
        // Latency and Hang have already happened. A race and SNS' errors are part of the effect.
        None
        | Some(
            Fault::Latency(_)
            | Fault::Hang
            | Fault::Race
            | Fault::SnsError { .. }
            | Fault::SnsEntryError { .. },
        ) => Ok(effect.await),
    }
}

/// How a server treats its connections.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    /// Answers do not state their length.
    pub(crate) chunked: bool,
    /// A connection is closed after this time without a request.
    pub(crate) idle: Duration,
    /// A connection is closed after this many answers. The last one announces it.
    pub(crate) answers: Option<u32>,
}

/// Serves connections until it is dropped, which closes them all.
pub(crate) async fn serve<H, F>(listener: TcpListener, manners: Manners, handler: H)
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    accept(listener, |stream| {
        serve_connection(stream, manners, handler.clone())
    })
    .await;
}

/// Like [`serve`], with any use of a connection.
pub(crate) async fn accept<C, F>(listener: TcpListener, connection: C)
where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream));
                }
                // Probably out of file descriptors. Some will soon be free.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection<H, F>(stream: TcpStream, manners: Manners, handler: H)
where
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Answer>,
{
    let answered = AtomicU32::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, answered) = (&handler, &answered);
        async move {
            let (head, body) = request.into_parts();
            let body = Limited::new(body, MOST_BYTES).collect();
            let mut response = match timeout(BODY_LIMIT, body).await {
                Ok(Ok(body)) => {
                    let request = Request::from_parts(head, body.to_bytes());
                    handler(request).await?.0
                }
                Ok(Err(error)) if error.is::<LengthLimitError>() => Reply::empty(413).0,
                _ => return Err(Dropped),
            };
            let count = answered.fetch_add(1, Ordering::Relaxed) + 1;
            if manners.answers.is_some_and(|most| count >= most) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Dropped>(response.map(|content| Body {
                content,
                chunked: manners.chunked,
            }))
        }
    });
    // Without it, the answer waits for the acknowledgement of the packet before. If it fails, the server is only
    // slower.
    let _ = stream.set_nodelay(true);
    // An error means that the caller went away, or that a rule closed the connection. The time limit of a head starts
    // when the connection becomes idle.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(manners.idle))
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A body that can hide its length, so that it is sent in chunks.
struct Body {
    content: Full<Bytes>,
    chunked: bool,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.content).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.chunked && !self.content.is_end_stream() {
            SizeHint::default()
        } else {
            self.content.size_hint()
        }
    }
}
