//! What Application Insights is told: an operation for each claim and its row, with the calls made for it and its custom events.
//!
//! The operation goes with the task that works on it, so that whoever makes a call need not be told for which row it is. A
//! call outside of any operation, like those of a health check, is not told. Nothing here waits or fails: see [`export`]
//! for what becomes of what cannot be sent.

pub mod export;
mod ingestion;
mod queue;
mod redirect;
pub mod traces;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::queue::{Queue, Telemetry};
use crate::event::event_type_of;
use crate::offender_update::{ClaimedRow, OffenderUpdate};
use crate::outcome::Outcome;

/// Whatever is longer is cut: a value may come from outside, and waits in memory until it is sent.
const LONGEST_VALUE: usize = 1024;

/// The name of every operation, and of the item that stands for its row.
const OPERATION: &str = "offender update";

tokio::task_local! {
    static CURRENT: Operation;
}

/// Where operations come from; a clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Insights(Option<Queue>);

/// A claim and what follows from it, in Application Insights one operation.
#[derive(Clone, Debug, Default)]
pub struct Operation(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    queue: Queue,
    trace_id: TraceId,
    span_id: SpanId,
    begun: Begun,
    /// What is told together with the row, at its end.
    events: Mutex<Vec<Event>>,
}

/// A call to another service. If it is dropped before its end is told, the caller has stopped waiting.
#[derive(Debug)]
pub struct Call(Option<OpenCall>);

#[derive(Debug)]
struct OpenCall {
    operation: Arc<Open>,
    span_id: SpanId,
    begun: Begun,
    attributes: Vec<KeyValue>,
    name: Cow<'static, str>,
    dependency: &'static str,
    ended: Option<(Cow<'static, str>, Option<String>)>,
}

/// The clock on the wall says when, and the steady one how long.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: SystemTime,
    instant: Instant,
}

impl Insights {
    /// Application Insights switched off: operations that nobody is told of.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// A new operation, with an id of its own.
    #[must_use]
    pub fn operation(&self) -> Operation {
        Operation(self.0.as_ref().map(|queue| {
            Arc::new(Open {
                queue: queue.clone(),
                trace_id: TraceId::from(fastrand::u128(1..)),
                span_id: new_span_id(),
                begun: Begun::now(),
                events: Mutex::default(),
            })
        }))
    }
}

impl Operation {
    /// The operation that this task works on.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Works on something as a part of this operation.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Tells that the events of a row are on the topic, `age` after the change.
    pub fn published(&self, update: &OffenderUpdate, crn: &str, age: Duration) {
        self.custom_event("ProbationOffenderEvent", || {
            let mut dimensions = vec![
                text("crn", crn),
                text("action", &update.action),
                text("offenderDeltaId", &update.offender_delta_id.0.to_string()),
                text("source", &update.source_table),
                text("dateChanged", &update.date_changed.to_string()),
                text("timeSinceUpdateSeconds", &age.as_secs().to_string()),
            ];
            let source_id = update.source_record_id;
            dimensions.extend(source_id.map(|id| text("sourceId", &id.to_string())));
            dimensions
        });
    }

    /// Tells that a row was marked as permanently failed.
    pub fn permanently_failed(&self, row: &ClaimedRow) {
        self.custom_event("ProbationOffenderPermanentlyFailedEvent", || ids_of(row));
    }

    /// Tells how a row's time in flight ended, with everything that was told of it.
    pub fn row_ended(&self, row: &ClaimedRow, outcome: Outcome) {
        let Some(open) = &self.0 else { return };
        let mut attributes = ids_of(row);
        let name = outcome.name();
        attributes.push(text("outcome", name));
        if let ClaimedRow::Update(update) = row {
            attributes.push(text("eventType", &event_type_of(update).0));
        }
        let events = std::mem::take(&mut *open.events.lock());
        let status = match outcome {
            Outcome::Published | Outcome::DeletedAgain => Status::Ok,
            _ => Status::error(name),
        };
        open.send(SpanData {
            span_kind: SpanKind::Consumer,
            attributes,
            status,
            ..open.span(
                open.span_id,
                SpanId::INVALID,
                OPERATION.into(),
                open.begun,
                events,
            )
        });
    }

    fn custom_event(&self, name: &'static str, dimensions: impl FnOnce() -> Vec<KeyValue>) {
        let Some(open) = &self.0 else { return };
        let mut attributes = dimensions();
        // The library makes a custom event of what has these two names; all other attributes are its dimensions.
        attributes.push(KeyValue::new("ai.customEvent.name", name));
        open.events.lock().push(event("ai.custom", attributes));
    }
}

/// Starts a call for the operation that this task works on. `target` is a host, and `name` says what is asked for, the same
/// for every offender.
#[must_use]
pub fn start_call(
    dependency: &'static str,
    target: &str,
    name: impl Into<Cow<'static, str>>,
) -> Call {
    Call(Operation::current().0.map(|operation| OpenCall {
        operation,
        span_id: new_span_id(),
        begun: Begun::now(),
        attributes: vec![text("server.address", target)],
        name: name.into(),
        dependency,
        ended: None,
    }))
}

impl Call {
    /// The header by which the other side can join the operation, as W3C Trace Context has it.
    #[must_use]
    pub fn traceparent(&self) -> Option<(&'static str, String)> {
        let call = self.0.as_ref()?;
        let trace_id = call.operation.trace_id;
        Some(("traceparent", format!("00-{trace_id}-{}-01", call.span_id)))
    }

    /// Tells how the call ended, and why it failed if it did.
    pub fn ended(mut self, result_code: impl Into<Cow<'static, str>>, failure: Option<&str>) {
        if let Some(call) = &mut self.0 {
            call.ended = Some((result_code.into(), failure.map(clamped)));
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let timed_out = || {
            (
                "timed_out".into(),
                Some("the caller has stopped waiting".into()),
            )
        };
        let (result_code, failure) = self.ended.take().unwrap_or_else(timed_out);
        let mut attributes = std::mem::take(&mut self.attributes);
        // The library makes the result code of it, and the type HTTP.
        attributes.push(text("http.response.status_code", &result_code));
        let mut events = Vec::new();
        let status = match failure {
            None => Status::Ok,
            Some(failure) => {
                let kind = format!("{} {result_code}", self.dependency);
                let exception = vec![
                    text("exception.type", &kind),
                    text("exception.message", &failure),
                ];
                events.push(event("exception", exception));
                Status::error(failure)
            }
        };
        let open = &self.operation;
        open.send(SpanData {
            span_kind: SpanKind::Client,
            attributes,
            status,
            ..open.span(
                self.span_id,
                open.span_id,
                self.name.clone(),
                self.begun,
                events,
            )
        });
    }
}

impl Open {
    fn send(&self, span: SpanData) {
        self.queue.send(Telemetry::Span(span));
    }

    /// Something in this operation that ends now.
    fn span(
        &self,
        span_id: SpanId,
        parent_span_id: SpanId,
        name: Cow<'static, str>,
        begun: Begun,
        events: Vec<Event>,
    ) -> SpanData {
        let mut told = SpanEvents::default();
        told.events = events;
        SpanData {
            span_context: SpanContext::new(
                self.trace_id,
                span_id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name,
            start_time: begun.at,
            end_time: begun.at + begun.instant.elapsed(),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: told,
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }
}

impl Begun {
    fn now() -> Self {
        Self {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

fn new_span_id() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}

fn event(name: &'static str, attributes: Vec<KeyValue>) -> Event {
    Event::new(name, SystemTime::now(), attributes, 0)
}

/// The ids by which Delius knows a row, as far as they could be read; no personal data.
fn ids_of(row: &ClaimedRow) -> Vec<KeyValue> {
    let (row, offender) = match row {
        ClaimedRow::Update(update) => (Some(update.offender_delta_id), Some(update.offender_id)),
        ClaimedRow::Unreadable(row) => (row.offender_delta_id, row.offender_id),
    };
    let row = row.map(|id| text("offenderDeltaId", &id.to_string()));
    let offender = offender.map(|id| text("offenderId", &id.to_string()));
    row.into_iter().chain(offender).collect()
}

fn text(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, clamped(value))
}

/// The library panics if it has to cut a value within a character, so that none gets to it that is too long.
fn clamped(value: &str) -> String {
    value[..value.floor_char_boundary(LONGEST_VALUE)].to_owned()
}
