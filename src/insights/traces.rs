//! The service's own log lines of WARN and above. Application Insights shows them as traces of their operation.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::trace::{TraceContextExt, TraceFlags};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, dispatcher};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::{Queue, Telemetry};
use super::{Operation, clamped};

/// A layer of the log. It sends lines that pass the filter before it, once `send_to` has named a queue.
#[derive(Debug, Default)]
pub struct Traces(OnceLock<(Queue, SdkLogger)>);

/// From now on, lines of the current log go into this queue.
pub(super) fn send_to(queue: &Queue) {
    let logger = SdkLoggerProvider::builder().build().logger("log");
    dispatcher::get_default(|log| {
        if let Some(traces) = log.downcast_ref::<Traces>() {
            let _ = traces.0.set((queue.clone(), logger.clone()));
        }
    });
}

impl<S: Subscriber> Layer<S> for Traces {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some((queue, logger)) = self.0.get() else {
            return;
        };
        let mut record = logger.create_log_record();
        record.set_timestamp(SystemTime::now());
        record.set_severity_number(match *event.metadata().level() {
            Level::ERROR => Severity::Error,
            _ => Severity::Warn,
        });
        if let Some(context) = Operation::current().0 {
            let span = context.span().span_context().clone();
            record.set_trace_context(span.trace_id(), span.span_id(), Some(TraceFlags::SAMPLED));
        }
        event.record(&mut Fields(&mut record));
        queue.send(Telemetry::Line(record));
    }
}

struct Fields<'a>(&'a mut SdkLogRecord);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: &str) {
        let value = AnyValue::from(clamped(value));
        match field.name() {
            "message" => self.0.set_body(value),
            name => self.0.add_attribute(name, value),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, &format!("{value:?}"));
    }
}
