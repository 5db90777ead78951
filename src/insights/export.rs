//! Sends batches to Application Insights, one after the other, in the library's format. It drops and counts what is not
//! accepted in time. Nothing waits for it, except the end of the process for a few seconds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_application_insights::Exporter;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::logs::{LogBatch, LogExporter, SdkLogRecord};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use secrecy::ExposeSecret;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Insights;
use super::ingestion::Ingestion;
use super::queue::{self, Count, Telemetry};
use super::traces;
use crate::config::InsightsSettings;
use crate::episode::Episode;

const BATCH: usize = 512;
/// How long the first item of a batch waits for others.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Exporting {
    task: JoinHandle<()>,
    closing: CancellationToken,
    count: Arc<Count>,
}

/// Sends an empty batch to the ingestion endpoint, to see whether it answers.
pub async fn try_endpoint(settings: &InsightsSettings) -> Result<(), String> {
    let ingestion = Ingestion::new(settings).map_err(|error| format!("{error:#}"))?;
    ingestion.try_it().await
}

pub fn start(
    settings: &InsightsSettings,
    version: &str,
    dropped: IntCounterVec,
) -> anyhow::Result<(Insights, Exporting)> {
    let formatted = Formatted::default();
    let key = settings.instrumentation_key.expose_secret();
    let exporter = Exporter::new_from_connection_string(
        format!("InstrumentationKey={key}"),
        formatted.clone(),
    )
    .map_err(|error| anyhow::anyhow!("Application Insights: {error}"))?;
    let (queue, receiver, count) = queue::new(dropped);
    let closing = CancellationToken::new();
    let batches = Batches {
        exporter,
        formatted,
        operation_scope: scope(settings, version, Some(super::OPERATION)),
        scope: scope(settings, version, None),
        ingestion: Ingestion::new(settings)?,
        count: count.clone(),
        outage: Episode::default(),
    };
    traces::send_to(&queue);
    let exporting = Exporting {
        task: tokio::spawn(batches.send_all(receiver, closing.clone())),
        closing,
        count,
    };
    Ok((
        Insights::into_queue(queue, scope(settings, version, Some(super::OPERATION))),
        exporting,
    ))
}

/// What every item has: whose telemetry it is, and the operation's name if it belongs to one. The library turns
/// attributes of a scope into tags. Attributes of a resource would also become custom dimensions of each call and row.
fn scope(
    settings: &InsightsSettings,
    version: &str,
    operation: Option<&'static str>,
) -> InstrumentationScope {
    // Reference-counted, since each span gets a copy.
    let shared = |value: &str| Arc::<str>::from(super::clamped(value));
    let mut attributes = vec![
        KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
        KeyValue::new("service.version", shared(version)),
    ];
    let instance = settings.instance.as_deref();
    attributes
        .extend(instance.map(|instance| KeyValue::new("service.instance.id", shared(instance))));
    attributes.extend(operation.map(|name| KeyValue::new("ai.operation.name", name)));
    InstrumentationScope::builder("")
        .with_attributes(attributes)
        .build()
}

impl Exporting {
    /// Sends what is left, for at most `limit`. Items that come later are dropped.
    pub async fn flush(mut self, limit: Duration) {
        self.closing.cancel();
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
        }
        let left = self.count.drop_unsent();
        if left > 0 {
            tracing::warn!(
                items = left,
                "telemetry was dropped: Application Insights did not accept it before the pod ended"
            );
        }
    }
}

struct Batches {
    exporter: Exporter<Formatted>,
    formatted: Formatted,
    operation_scope: InstrumentationScope,
    /// For items without an operation.
    scope: InstrumentationScope,
    ingestion: Ingestion,
    count: Arc<Count>,
    outage: Episode,
}

impl Batches {
    async fn send_all(mut self, mut receiver: Receiver<Telemetry>, closing: CancellationToken) {
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

    async fn send(&mut self, batch: Vec<Telemetry>) {
        let (mut spans, mut lines) = (Vec::new(), Vec::new());
        let mut items_of_spans = 0;
        for telemetry in batch {
            match telemetry {
                Telemetry::Span(span) => {
                    items_of_spans += queue::items_of(&span);
                    spans.push(span);
                }
                Telemetry::Line(line) => lines.push(line),
            }
        }
        let items_of_lines = lines.len();
        let spans = self.spans_formatted(spans).await;
        let lines = self.lines_formatted(&lines).await;
        // Concurrent, so that lines do not make a batch slower.
        let (spans, lines) = tokio::join!(
            self.deliver(spans, items_of_spans),
            self.deliver(lines, items_of_lines),
        );
        let sent = spans.and(lines);
        self.log(sent);
    }

    fn log(&mut self, sent: Result<(), String>) {
        let now = Instant::now();
        match sent {
            Err(cause) => {
                if let Some(lasted) = self.outage.failed(Duration::ZERO, now) {
                    let failing_for_seconds = lasted.as_secs();
                    tracing::warn!(
                        cause,
                        failing_for_seconds,
                        "Application Insights does not accept telemetry: the service drops it, and counts it in \
                         telemetry_dropped_total. Check APPLICATIONINSIGHTS_CONNECTION_STRING and the endpoint"
                    );
                }
            }
            Ok(()) => {
                if let Some(lasted) = self.outage.succeeded(Duration::ZERO, now) {
                    let failed_for_seconds = lasted.as_secs();
                    tracing::info!(
                        failed_for_seconds,
                        "Application Insights accepts telemetry again"
                    );
                }
            }
        }
    }

    async fn deliver(&self, body: Option<Bytes>, items: usize) -> Result<(), String> {
        match body {
            Some(body) => self.ingestion.deliver(body, items, &self.count).await,
            None if items == 0 => Ok(()),
            None => {
                self.count.sent(items, items, "not_accepted");
                Err("the library could not format the items".to_owned())
            }
        }
    }

    /// A compressed JSON array with one element per item.
    async fn spans_formatted(&self, spans: Vec<SpanData>) -> Option<Bytes> {
        if !spans.is_empty() {
            SpanExporter::export(&self.exporter, spans).await.ok()?;
        }
        self.formatted.0.lock().take()
    }

    async fn lines_formatted(&self, lines: &[SdkLogRecord]) -> Option<Bytes> {
        let with_scope = |line: &SdkLogRecord| match line.trace_context() {
            Some(_) => &self.operation_scope,
            None => &self.scope,
        };
        let lines: Vec<_> = lines.iter().map(|line| (line, with_scope(line))).collect();
        if !lines.is_empty() {
            let batch = LogBatch::new(&lines);
            LogExporter::export(&self.exporter, batch).await.ok()?;
        }
        self.formatted.0.lock().take()
    }
}

/// Stands in for the library's HTTP client: it keeps the body, and reports that everything was accepted. The library's
/// own retries would resend what was sampled out, and do not report what they drop.
#[derive(Clone, Debug, Default)]
struct Formatted(Arc<Mutex<Option<Bytes>>>);

#[async_trait]
impl HttpClient for Formatted {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.0.lock() = Some(request.into_body());
        Ok(Response::new(Bytes::new()))
    }
}
