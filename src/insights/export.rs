//! The sending to Application Insights: one batch after the other, with the library's format and retries. What is not accepted in
//! time is dropped and counted; nobody ever waits for it but the end of the process, and that not long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_application_insights::Exporter;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus::IntCounterVec;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Insights;
use super::queue::{self, Count, items};
use crate::config::InsightsSettings;
use crate::http;

/// So many are sent at once.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_secs(5);
/// The longest that one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The longest that a batch may take, with the retries of the library.
const BATCH_LIMIT: Duration = Duration::from_secs(30);

/// The task that sends.
#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    closing: CancellationToken,
    count: Arc<Count>,
}

fn track_url(endpoint: &str) -> String {
    format!("{endpoint}/v2/track")
}

/// Sends nothing to the ingestion endpoint, to see whether it is there; that it refuses nothing is an answer as well.
///
/// # Errors
/// In words.
pub async fn try_endpoint(http: &http::HttpClient, endpoint: &str) -> Result<(), String> {
    let nothing = http
        .request(Method::POST, track_url(endpoint))
        .timeout(REQUEST_LIMIT)
        .header("content-type", "application/json")
        .body("[]");
    let answer = http.send(nothing).await.map_err(http::not_answered);
    match answer.map_err(|error| error.cause)?.status().as_u16() {
        status @ (404 | 500..) => Err(format!("answered {status}")),
        _ => Ok(()),
    }
}

/// Starts to send to Application Insights.
///
/// # Errors
/// If the machine has no root certificates.
pub fn start(
    settings: &InsightsSettings,
    version: &str,
    dropped: IntCounterVec,
) -> anyhow::Result<(Insights, Exporting)> {
    let client = http::HttpClient::new(REQUEST_LIMIT)?;
    let accepted = Arc::new(AtomicU64::new(0));
    let ingestion = Ingestion {
        client,
        url: track_url(&settings.endpoint),
        accepted: accepted.clone(),
    };
    let key = settings.instrumentation_key.expose_secret();
    let mut exporter =
        Exporter::new_from_connection_string(format!("InstrumentationKey={key}"), ingestion)
            .map_err(|error| anyhow::anyhow!("Application Insights: {error}"))?;
    exporter.set_resource(&resource(settings, version));
    let (queue, receiver, count) = queue::new(dropped);
    let closing = CancellationToken::new();
    let batches = Batches {
        exporter,
        accepted,
        count: count.clone(),
        failing: false,
    };
    let exporting = Exporting {
        task: tokio::spawn(batches.send_all(receiver, closing.clone())),
        closing,
        count,
    };
    Ok((Insights(Some(queue)), exporting))
}

/// Whose telemetry it is.
fn resource(settings: &InsightsSettings, version: &str) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", super::clamped(version)),
    ];
    if let Some(instance) = &settings.instance {
        attributes.push(KeyValue::new(
            "service.instance.id",
            super::clamped(instance),
        ));
    }
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
}

impl Exporting {
    /// Sends what is left, for as long as `limit` at most; what is told from now on is dropped.
    pub async fn flush(mut self, limit: Duration) {
        self.closing.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
        }
        let left = self.count.drop_unsent();
        if left > 0 {
            tracing::warn!(
                items = left,
                "telemetry dropped: Application Insights did not take it before the end"
            );
        }
    }
}

/// Makes batches and sends them, one after the other.
struct Batches {
    exporter: Exporter<Ingestion>,
    /// How many items of the batch have been accepted so far.
    accepted: Arc<AtomicU64>,
    count: Arc<Count>,
    failing: bool,
}

impl Batches {
    async fn send_all(mut self, mut receiver: Receiver<SpanData>, closing: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let linger = async {
                tokio::select! {
                    () = sleep(LINGER) => {}
                    () = closing.cancelled() => {}
                }
            };
            tokio::pin!(linger);
            tokio::select! {
                biased;
                () = closing.cancelled() => receiver.close(),
                first = receiver.recv() => batch.extend(first),
            }
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    biased;
                    taken = receiver.recv_many(&mut batch, room) => if taken == 0 { break },
                    () = &mut linger, if !batch.is_empty() => break,
                }
            }
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let total = batch.iter().map(items).sum::<u64>();
        self.accepted.store(0, Ordering::Relaxed);
        let result = match timeout(BATCH_LIMIT, self.exporter.export(batch)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("not accepted within {BATCH_LIMIT:?}")),
        };
        let dropped = total.saturating_sub(self.accepted.load(Ordering::Relaxed));
        self.count.sent(total, dropped, "not_accepted");
        let failed = result.is_err();
        match result {
            Err(cause) if !self.failing => tracing::warn!(
                cause,
                "Application Insights does not take telemetry; it is dropped and counted until it does"
            ),
            Ok(()) if self.failing => tracing::info!("Application Insights takes telemetry again"),
            _ => {}
        }
        self.failing = failed;
    }
}

/// The ingestion endpoint, as the library wants its client to be.
#[derive(Debug)]
struct Ingestion {
    client: http::HttpClient,
    /// Not the one that the library makes, which is always https.
    url: String,
    accepted: Arc<AtomicU64>,
}

#[async_trait]
impl HttpClient for Ingestion {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let request = self.client.request(Method::POST, &self.url);
        let request = request
            .timeout(REQUEST_LIMIT)
            .headers(head.headers)
            .body(body);
        let answer = self
            .client
            .send(request)
            .await
            .map_err(|error| http::not_answered(error).cause)?;
        let status = answer.status();
        let body = self
            .client
            .body(answer)
            .await
            .map_err(|error| error.cause)?;
        let said = serde_json::from_slice::<Value>(&body).ok();
        match said.and_then(|said| said["itemsAccepted"].as_u64()) {
            Some(accepted) => {
                self.accepted.fetch_add(accepted, Ordering::Relaxed);
            }
            None if status.is_success() => self.accepted.store(u64::MAX, Ordering::Relaxed),
            None => {}
        }
        Ok(Response::builder().status(status).body(body.into())?)
    }
}
