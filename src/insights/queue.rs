//! What waits to be sent to Application Insights: a limited number of calls, rows and log lines. Each item that is
//! never sent is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::Status;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::SdkLogRecord;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus::IntCounterVec;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The calls, rows and log lines that may wait. Each takes about a kilobyte.
const LENGTH: usize = 2048;

#[derive(Debug)]
pub(super) enum Telemetry {
    Span(SpanData),
    Line(SdkLogRecord),
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: Sender<Telemetry>,
    count: Arc<Count>,
}

#[derive(Debug)]
pub(super) struct Count {
    /// In the queue or being sent.
    unsent: AtomicUsize,
    dropped: IntCounterVec,
}

pub(super) fn new(dropped: IntCounterVec) -> (Queue, Receiver<Telemetry>, Arc<Count>) {
    let (sender, receiver) = channel(LENGTH);
    let count = Arc::new(Count {
        unsent: AtomicUsize::new(0),
        dropped,
    });
    let queue = Queue {
        sender,
        count: count.clone(),
    };
    (queue, receiver, count)
}

/// A span and each of its events are separate items in Application Insights.
pub(super) fn items_of(span: &SpanData) -> usize {
    1 + span.events.len()
}

impl Queue {
    /// Queues the item, or drops it if the queue is full. Never waits.
    pub fn send(&self, telemetry: Telemetry) {
        let items = match &telemetry {
            Telemetry::Span(span) => items_of(span),
            Telemetry::Line(_) => 1,
        };
        self.count.unsent.fetch_add(items, Ordering::Relaxed);
        if let Err(refused) = self.sender.try_send(telemetry) {
            let reason = match refused {
                TrySendError::Full(_) => "queue_full",
                TrySendError::Closed(_) => "stopped",
            };
            self.count.sent(items, items, reason);
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        if span.status == Status::Unset {
            // An operation that did not end as a row: a claim that found none, or a task that panicked.
            if span.events.is_empty() {
                return;
            }
            span.status = Status::error("broken_off");
        }
        self.send(Telemetry::Span(span));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Count {
    /// `items` are no longer unsent. `dropped` of them were dropped.
    pub fn sent(&self, items: usize, dropped: usize, reason: &'static str) {
        self.unsent.fetch_sub(items, Ordering::Relaxed);
        self.drop(dropped, reason);
    }

    /// Drops what is unsent when the process ends.
    pub fn drop_unsent(&self) -> usize {
        let unsent = self.unsent.swap(0, Ordering::Relaxed);
        self.drop(unsent, "stopped");
        unsent
    }

    fn drop(&self, items: usize, reason: &'static str) {
        let counter = self.dropped.with_label_values(&[reason]);
        counter.inc_by(items as u64);
    }
}
