//! Gauges that are computed when they are read, since their values grow with time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The seconds since a moment, or an age that grows. 0 while there is none.
#[derive(Clone, Debug, Default)]
pub struct SecondsSince(Arc<Mutex<Option<(Duration, Instant)>>>);

impl SecondsSince {
    pub fn set(&self, moment: Option<Instant>) {
        self.set_age(moment.map(|moment| (Duration::ZERO, moment)));
    }

    /// Sets an age, and when it was measured.
    pub fn set_age(&self, age: Option<(Duration, Instant)>) {
        *self.0.lock() = age;
    }

    pub(super) fn seconds(&self) -> f64 {
        let age = *self.0.lock();
        age.map_or(0.0, |(age, at)| (age + at.elapsed()).as_secs_f64())
    }
}

/// The maximum age over the last 2 to 3 minutes, or 0 if there was none.
///
/// The service's predecessor kept three windows of a minute (Micrometer's `TimeWindowMax`), and the alert's threshold
/// was chosen for that.
#[derive(Clone, Debug)]
pub(super) struct AgeMax(Arc<Mutex<Windows>>);

#[derive(Debug)]
struct Windows {
    /// The newest first.
    maxima: [f64; 3],
    newest_since: Instant,
}

const WINDOW: Duration = Duration::from_mins(1);

impl AgeMax {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Windows {
            maxima: [0.0; 3],
            newest_since: Instant::now(),
        })))
    }

    pub fn seconds(&self) -> f64 {
        let windows = self.rotated();
        windows.maxima.iter().copied().fold(0.0, f64::max)
    }

    pub fn observe(&self, seconds: f64) {
        let newest = &mut self.rotated().maxima[0];
        *newest = newest.max(seconds);
    }

    fn rotated(&self) -> MutexGuard<'_, Windows> {
        let mut windows = self.0.lock();
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
