//! What Application Insights receives: an operation for each claim and its row, with the calls made for it and its
//! custom events.
//!
//! The operation belongs to the task that works on it, so a caller need not know for which row it makes a call. A call
//! outside any operation, such as that of a health check, is not sent. Nothing here waits or fails. [`export`] handles
//! items that cannot be sent.

pub mod export;
mod ingestion;
mod queue;
mod redirect;
pub mod traces;

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{
    FutureExt, Span as _, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanLimits};

use self::queue::Queue;
use crate::offender_update::{ClaimedRow, OffenderUpdate};
use crate::outcome::Outcome;

/// Longer values are cut, since a value may come from outside, and waits in memory until it is sent.
const LONGEST_VALUE: usize = 1024;

const OPERATION: &str = "offender update";

/// Starts operations. Clones share their state. By default, Application Insights is off: no operation is sent.
#[derive(Clone, Debug, Default)]
pub struct Insights(Option<SdkTracer>);

/// A claim and its row: one operation in Application Insights.
#[derive(Clone, Debug, Default)]
pub struct Operation(Option<Context>);

/// A call to another service. If it is dropped before [`Self::ended`], the caller has stopped waiting.
#[derive(Debug)]
pub struct Call(Option<OpenCall>);

#[derive(Debug)]
struct OpenCall {
    span: Span,
    dependency: &'static str,
    ended: Option<(Cow<'static, str>, Option<String>)>,
}

impl Insights {
    fn into_queue(queue: Queue, scope: InstrumentationScope) -> Self {
        // All are set here, since the SDK otherwise reads them from the environment. It does not count what a sampler
        // or a limit drops. The default limits are 128 events and 128 attributes. No span here has 10 of either.
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder_empty().build())
            .with_sampler(Sampler::AlwaysOn)
            .with_span_limits(SpanLimits::default())
            .with_span_processor(queue)
            .build();
        Self(Some(provider.tracer_with_scope(scope)))
    }

    pub fn operation(&self) -> Operation {
        Operation(self.0.as_ref().map(|tracer| {
            let span = tracer.span_builder(OPERATION).with_kind(SpanKind::Consumer);
            let span = tracer.build_with_context(span, &Context::new());
            Context::new().with_value(tracer.clone()).with_span(span)
        }))
    }
}

impl Operation {
    pub fn current() -> Self {
        Self(Context::map_current(|current| {
            current.has_active_span().then(|| current.clone())
        }))
    }

    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        match self.0 {
            Some(context) => work.with_context(context).await,
            None => work.await,
        }
    }

    /// Records that the topic has accepted the row's events, `age` after the change.
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

    pub fn permanently_failed(&self, row: &ClaimedRow) {
        self.custom_event("ProbationOffenderPermanentlyFailedEvent", || ids_of(row));
    }

    /// Ends the row's item, and sends it with its custom events.
    pub fn row_ended(&self, row: &ClaimedRow, event_type: Option<&str>, outcome: Outcome) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attributes(ids_of(row));
        let name = outcome.name();
        span.set_attribute(text("outcome", name));
        if let Some(event_type) = event_type {
            span.set_attribute(text("eventType", event_type));
        }
        span.set_status(match outcome {
            Outcome::Published | Outcome::DeletedAgain => Status::Ok,
            _ => Status::error(name),
        });
        span.end();
    }

    fn custom_event(&self, name: &'static str, dimensions: impl FnOnce() -> Vec<KeyValue>) {
        let Some(context) = &self.0 else { return };
        let mut attributes = dimensions();
        // These two names make a custom event of it. All other attributes are its dimensions.
        attributes.push(KeyValue::new("ai.customEvent.name", name));
        context.span().add_event("ai.custom", attributes);
    }
}

/// Starts a call for the operation of this task. `target` is a host. `name` is the same for every offender.
pub fn start_call(dependency: &'static str, target: &str, name: &'static str) -> Call {
    let span = Operation::current().0.and_then(|context| {
        let tracer = context.get::<SdkTracer>()?;
        let span = tracer
            .span_builder(name)
            .with_kind(SpanKind::Client)
            .with_attributes([text("server.address", target)]);
        Some(tracer.build_with_context(span, &context))
    });
    Call(span.map(|span| OpenCall {
        span,
        dependency,
        ended: None,
    }))
}

impl Call {
    /// The header with which the other side can join the operation (W3C Trace Context).
    pub fn traceparent(&self) -> Option<(&'static str, String)> {
        let context = self.0.as_ref()?.span.span_context();
        let (trace_id, span_id) = (context.trace_id(), context.span_id());
        Some(("traceparent", format!("00-{trace_id}-{span_id}-01")))
    }

    /// Records how the call ended, and why it failed.
    pub fn ended(&mut self, result_code: Cow<'static, str>, failure: Option<&str>) {
        if let Some(call) = &mut self.0 {
            call.ended = Some((result_code, failure.map(clamped)));
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
        // The library derives the result code and the type HTTP from it.
        self.span
            .set_attribute(text("http.response.status_code", &result_code));
        match failure {
            None => self.span.set_status(Status::Ok),
            Some(failure) => {
                let kind = format!("{} {result_code}", self.dependency);
                let exception = vec![
                    text("exception.type", &kind),
                    text("exception.message", &failure),
                ];
                self.span.add_event("exception", exception);
                self.span.set_status(Status::error(failure));
            }
        }
    }
}

/// Delius's ids of a row, as far as they could be read. No CRN and no prison number.
fn ids_of(row: &ClaimedRow) -> Vec<KeyValue> {
    let delta_id = row.offender_delta_id();
    let delta_id = delta_id.map(|id| text("offenderDeltaId", &id.0.to_string()));
    let offender_id = row.offender_id();
    let offender_id = offender_id.map(|id| text("offenderId", &id.0.to_string()));
    delta_id.into_iter().chain(offender_id).collect()
}

fn text(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, clamped(value))
}

/// The library panics if it has to cut a value within a character, so it never gets one that is too long.
fn clamped(value: &str) -> String {
    value[..value.floor_char_boundary(LONGEST_VALUE)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insights::queue::{self, Telemetry};
    use crate::metrics::Metrics;

    #[test]
    fn an_unfinished_operation_still_sends_its_events() {
        let (queue, mut receiver, _) = queue::new(Metrics::new().unwrap().telemetry_dropped);
        let insights = Insights::into_queue(queue, InstrumentationScope::default());
        let operation = insights.operation();
        operation.custom_event("event", Vec::new);
        drop(operation);
        let Some(Telemetry::Span(span)) = receiver.blocking_recv() else {
            panic!("nothing was sent");
        };
        assert_eq!(span.events.len(), 1);
        assert!(matches!(span.status, Status::Error { .. }));
    }

    #[test]
    fn a_claim_that_found_nothing_leaves_no_request() {
        let (queue, mut receiver, _) = queue::new(Metrics::new().unwrap().telemetry_dropped);
        let insights = Insights::into_queue(queue, InstrumentationScope::default());
        drop(insights.operation());
        assert!(receiver.try_recv().is_err());
    }
}
