//! How long `nextUpdate` takes from reading a row to locking it, which depends on how many callers do it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// With many callers, the first three milliseconds of the work take up to this fraction longer. Measured with the
/// database nearby: one row every 3.2 ms for one pod, 4.4 for two, 5.1 for four and 5.4 for eight. With the database
/// far away, callers did not slow each other down.
const SLOWEST: f64 = 0.75;
const SLOWED: Duration = Duration::from_millis(3);

/// The callers between reading and locking. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<AtomicU32>);

/// One caller, until it is dropped.
pub(crate) struct Caller {
    crowd: Crowd,
    /// How many callers there were when it arrived, including itself.
    callers: u32,
}

impl Crowd {
    pub(crate) fn enter(&self) -> Caller {
        Caller {
            callers: self.0.fetch_add(1, Ordering::Relaxed) + 1,
            crowd: self.clone(),
        }
    }
}

impl Caller {
    /// The time that a caller needs, if a single one needs `alone`.
    pub(crate) fn time(&self, alone: Duration) -> Duration {
        let others = 1.0 - 1.0 / f64::from(self.callers);
        alone + alone.min(SLOWED).mul_f64(SLOWEST * others)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.crowd.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_slow_each_other_down_as_measured() {
        for (callers, near, far) in [
            (1, 3_000, 60_000),
            (2, 4_125, 61_125),
            (4, 4_688, 61_688),
            (8, 4_969, 61_969),
        ] {
            let crowd = Crowd::default();
            let mut crowded: Vec<Caller> = (0..callers).map(|_| crowd.enter()).collect();
            let last = crowded.pop().unwrap();
            for (alone, microseconds) in [(3, near), (60, far), (0, 0)] {
                let time = last.time(Duration::from_millis(alone)).as_secs_f64() * 1e6;
                assert!(
                    (time - f64::from(microseconds)).abs() < 1.0,
                    "{callers}: {time}"
                );
            }
            drop((crowded, last));
            assert_eq!(crowd.enter().callers, 1, "all have left");
        }
    }
}
