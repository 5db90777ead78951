//! The log: JSON lines in the cluster, readable text on a terminal, and nothing personal at any level.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogFormat;

/// Sets up the log of the process.
///
/// `levels` counts for the service's own lines only. The libraries below it print whole requests at lower levels, tokens
/// and message bodies included, so that of theirs nothing under WARN is ever written.
///
/// # Errors
/// If the log has been set up already.
pub fn start(format: LogFormat, colours: bool, levels: &str) -> anyhow::Result<()> {
    let on_terminal = std::io::stdout().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !on_terminal,
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
            .with_ansi(colours && on_terminal)
            .boxed()
    };
    let own_or_warning = filter_fn(|metadata| {
        metadata.target().starts_with("probation_offender_events")
            || *metadata.level() <= LevelFilter::WARN
    });
    let lines = lines
        .with_filter(EnvFilter::try_new(levels)?)
        .with_filter(own_or_warning);
    tracing_subscriber::registry().with(lines).try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        // Not the message, which may quote what was being worked on.
        tracing::error!(
            at = panic.location().map(tracing::field::display),
            "a task panicked"
        );
    }));
    Ok(())
}
