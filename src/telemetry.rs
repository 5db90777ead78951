//! The log: JSON lines in the cluster, readable text on a terminal, and no personal data at any level. It never holds
//! up the service.

mod lines;
mod repeats;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use self::lines::{CAPACITY, Lines};
use self::repeats::Repeats;
use crate::config::LogFormat;
use crate::insights::traces::Traces;

/// How long the end of the process waits for lines to be written.
const LONGEST_FINISH: Duration = Duration::from_secs(1);

/// The log of the process. When it is dropped, it writes the lines that are left, within a second.
#[derive(Debug)]
#[must_use]
pub struct Log {
    lines: Arc<Lines>,
    repeats: Repeats,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.repeats.sum_up_all();
        self.lines.finish(LONGEST_FINISH);
    }
}

/// Sets up the log of the process. `lost` counts lines that are not written.
///
/// `levels` applies to the service's own lines. No others are written: libraries print whole requests with tokens and
/// message bodies, in warnings too.
///
/// # Errors
/// If the log was set up already, or the system cannot start a thread.
pub fn start(
    format: LogFormat,
    colours: bool,
    levels: &str,
    lost: IntCounter,
) -> anyhow::Result<Log> {
    let log = Log {
        lines: Lines::new(CAPACITY, lost),
        repeats: Repeats::default(),
    };
    let on_terminal = std::io::stdout().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !on_terminal,
    };
    let lines = fmt::layer().with_writer(log.lines.clone());
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        lines
            .with_target(false)
            .with_ansi(colours && on_terminal)
            .boxed()
    };
    let filter = EnvFilter::try_new(levels)?
        .and(filter_fn(is_own))
        .and(log.repeats.clone());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(traces())
        .try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        // Not the message, which may quote the data that was processed.
        tracing::error!(
            at = panic.location().map(tracing::field::display),
            "a task panicked: report this as a bug"
        );
    }));
    let repeats = log.repeats.clone();
    log.lines.write_to(std::io::stdout(), move |lost| {
        repeats.sum_up();
        if lost > 0 {
            tracing::warn!(
                lost,
                "log lines were lost: the log could not be written quickly enough. \
                 Check the node and the reader of the log"
            );
        }
    })?;
    Ok(log)
}

/// The part of the log that Application Insights gets. A row that is settled without trouble has no such line.
pub fn traces<S: Subscriber + for<'span> LookupSpan<'span>>() -> impl Layer<S> {
    let own_warnings = filter_fn(|line| is_own(line) && *line.level() <= LevelFilter::WARN);
    Traces::default().with_filter(own_warnings.with_max_level_hint(LevelFilter::WARN))
}

fn is_own(line: &Metadata<'_>) -> bool {
    line.target().starts_with(env!("CARGO_CRATE_NAME"))
}
