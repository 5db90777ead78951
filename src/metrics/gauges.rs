//! Gauges that are computed when they are read, since their value changes with time alone.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use prometheus::Gauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::time::Instant;

/// The seconds since a moment, or an age that grows. 0 while there is none.
#[derive(Clone, Debug)]
pub struct SecondsSince {
    gauge: Gauge,
    age: Arc<Mutex<Option<(Duration, Instant)>>>,
}

impl SecondsSince {
    pub(super) fn new(name: &str, help: &str, moment: Option<Instant>) -> prometheus::Result<Self> {
        Ok(Self {
            gauge: Gauge::new(name, help)?,
            age: Arc::new(Mutex::new(moment.map(|moment| (Duration::ZERO, moment)))),
        })
    }

    pub fn set(&self, moment: Option<Instant>) {
        self.set_age(moment.map(|moment| (Duration::ZERO, moment)));
    }

    /// Sets an age, and when it was measured.
    pub fn set_age(&self, age: Option<(Duration, Instant)>) {
        *self.age.lock() = age;
    }
}

impl Collector for SecondsSince {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let age = *self.age.lock();
        let seconds = |(age, at): (Duration, Instant)| (age + at.elapsed()).as_secs_f64();
        self.gauge.set(age.map_or(0.0, seconds));
        self.gauge.collect()
    }
}

/// The maximum age over the last two to three minutes, or 0 if there was none.
///
/// The service's predecessor kept three windows of a minute (Micrometer's `TimeWindowMax`), and the alert's threshold
/// was chosen for that.
#[derive(Clone, Debug)]
pub(super) struct AgeMax {
    gauge: Gauge,
    windows: Arc<Mutex<Windows>>,
}

#[derive(Debug)]
struct Windows {
    /// The newest first.
    maxima: [f64; 3],
    newest_since: Instant,
}

const WINDOW: Duration = Duration::from_mins(1);

impl AgeMax {
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            gauge: Gauge::new(
                "offender_update_age_seconds_max",
                "Highest offender_update_age_seconds of the last two to three minutes.",
            )?,
            windows: Arc::new(Mutex::new(Windows {
                maxima: [0.0; 3],
                newest_since: Instant::now(),
            })),
        })
    }

    pub fn observe(&self, seconds: f64) {
        let newest = &mut self.rotated().maxima[0];
        *newest = newest.max(seconds);
    }

    fn rotated(&self) -> MutexGuard<'_, Windows> {
        let mut windows = self.windows.lock();
        for _ in 0..windows.maxima.len() {
            if windows.newest_since.elapsed() < WINDOW {
                return windows;
            }
            windows.maxima.rotate_right(1);
            windows.maxima[0] = 0.0;
            windows.newest_since += WINDOW;
        }
        // More than three windows have passed without an age.
        if windows.newest_since.elapsed() >= WINDOW {
            windows.newest_since = Instant::now();
        }
        windows
    }
}

impl Collector for AgeMax {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge
            .set(self.rotated().maxima.iter().copied().fold(0.0, f64::max));
        self.gauge.collect()
    }
}
