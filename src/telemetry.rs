//! The log: JSON lines in the cluster, readable text on a terminal, and nothing personal at any level.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogFormat;
use crate::insights::traces::Traces;

/// Sets up the log of the process.
///
/// `levels` counts for the service's own lines only. The libraries below it print whole requests at lower levels, tokens
/// and message bodies included, so that of theirs nothing under WARN is ever written.
///
/// # Errors
/// If the log has been set up already.
pub fn start(format: LogFormat, levels: &str) -> anyhow::Result<()> {
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stdout().is_terminal(),
    };
    // That a line cannot be written would be told on stderr, and that it cannot be told there would be a panic.
    let lines = if json {
        fmt::layer()
            .log_internal_errors(false)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        fmt::layer()
            .log_internal_errors(false)
            .with_target(false)
            .with_ansi(std::io::stdout().is_terminal())
            .boxed()
    };
    let own_or_warning = filter_fn(|line| is_own(line) || *line.level() <= LevelFilter::WARN);
    let lines = lines
        .with_filter(EnvFilter::try_new(levels)?)
        .with_filter(own_or_warning);
    tracing_subscriber::registry()
        .with(lines)
        .with(traces())
        .try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        // Not the message, which may quote what was being worked on.
        tracing::error!(
            at = panic.location().map(tracing::field::display),
            "a task panicked"
        );
    }));
    Ok(())
}

/// The part of the log that Application Insights gets. A row that goes well has no such line.
#[must_use]
pub fn traces<S: Subscriber + for<'span> LookupSpan<'span>>() -> impl Layer<S> {
    let own_warnings = filter_fn(|line| is_own(line) && *line.level() <= LevelFilter::WARN);
    Traces::default().with_filter(own_warnings.with_max_level_hint(LevelFilter::WARN))
}

/// Whether a line is the service's own, and so free of personal data.
fn is_own(line: &Metadata<'_>) -> bool {
    line.target().starts_with(env!("CARGO_CRATE_NAME"))
}
