//! Sums up repeated warnings and errors of one kind, so that an incident with 20,000 rows is not 20,000 lines.
//!
//! A kind is one log statement in the code. Lines below WARN are not summed up: there is normally one per row, and
//! operators need them.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// The lines of a kind that are logged within a window: enough to see what rows in trouble have in common.
const SHOWN: u64 = 20;
/// With 20 lines per window, a kind that never stops costs two lines per second.
const WINDOW: Duration = Duration::from_secs(10);

/// What was logged recently, by kind. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Repeats(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    since: Instant,
    lines: u64,
    level: Level,
    message: String,
}

#[derive(Default)]
struct Message(String);

impl Repeats {
    fn is_shown(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if !can_be_left_out(metadata) {
            return true;
        }
        let mut kinds = self.0.lock();
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| {
            let mut message = Message::default();
            event.record(&mut message);
            Kind {
                since: Instant::now(),
                lines: 0,
                level: *metadata.level(),
                message: message.0,
            }
        });
        kind.lines += 1;
        kind.lines <= SHOWN
    }

    /// Logs how many lines were left out, for each kind whose window has ended.
    pub fn sum_up(&self) {
        self.sum_up_where(|kind| kind.since.elapsed() >= WINDOW);
    }

    /// Does the same for every kind when the process ends.
    pub fn sum_up_all(&self) {
        self.sum_up_where(|_| true);
    }

    fn sum_up_where(&self, is_over: impl Fn(&Kind) -> bool) {
        let mut kinds = self.0.lock();
        let over: Vec<Kind> = kinds
            .extract_if(|_, kind| is_over(kind))
            .map(|(_, kind)| kind)
            .collect();
        // Logging locks the kinds, too.
        drop(kinds);
        for kind in over.iter().filter(|kind| kind.lines > SHOWN) {
            kind.log();
        }
    }
}

fn can_be_left_out(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN && metadata.target() != module_path!()
}

impl Kind {
    fn log(&self) {
        let more = self.lines - SHOWN;
        let seconds = self.since.elapsed().as_secs();
        let Self { level, message, .. } = self;
        if *level == Level::ERROR {
            tracing::error!(more, "and {more} more in the last {seconds} s: {message}");
        } else {
            tracing::warn!(more, "and {more} more in the last {seconds} s: {message}");
        }
    }
}

impl<S> Filter<S> for Repeats {
    /// `event_enabled` decides, which is called later.
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if can_be_left_out(metadata) {
            Interest::sometimes()
        } else {
            Interest::always()
        }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.is_shown(event)
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::time::advance;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, fmt};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for &Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// The lines since the last call.
        fn lines(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock());
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(|line| line.trim().to_owned()).collect()
        }
    }

    fn logging() -> (Repeats, Log, tracing::subscriber::DefaultGuard) {
        let repeats = Repeats::default();
        let log = Log::default();
        let lines = fmt::layer()
            .with_writer(Arc::new(log.clone()))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_filter(repeats.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        (repeats, log, tracing::subscriber::set_default(subscriber))
    }

    fn left(row: u64) {
        tracing::warn!(row, "row left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_repeats_is_summed_up_after_twenty_lines() {
        let (repeats, log, _guard) = logging();
        (1..=1250).for_each(left);
        tracing::warn!("another kind");
        let lines = log.lines();
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[0], "WARN row left row=1");
        assert_eq!(lines[20], "WARN another kind");
        advance(Duration::from_millis(9_999)).await;
        repeats.sum_up();
        assert_eq!(log.lines(), [""; 0]);
        advance(Duration::from_millis(1)).await;
        repeats.sum_up();
        let summary = "WARN and 1230 more in the last 10 s: row left more=1230";
        assert_eq!(log.lines(), [summary]);
        left(7);
        assert_eq!(log.lines(), ["WARN row left row=7"]);
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_lines_and_lines_below_warn_are_not_summed_up() {
        let (repeats, log, _guard) = logging();
        for row in 1..=100 {
            tracing::info!(row, "row settled");
        }
        (1..=20).for_each(left);
        assert_eq!(log.lines().len(), 120);
        repeats.sum_up_all();
        assert_eq!(log.lines(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_sums_up_what_is_left_at_its_level() {
        let (repeats, log, _guard) = logging();
        for _ in 1..=21 {
            tracing::error!("broken");
        }
        log.lines();
        advance(Duration::from_secs(3)).await;
        repeats.sum_up_all();
        assert_eq!(
            log.lines(),
            ["ERROR and 1 more in the last 3 s: broken more=1"]
        );
    }
}
