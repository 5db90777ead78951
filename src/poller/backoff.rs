//! Waiting times between attempts: growing, with jitter so that pods and rows do not try in step.

use std::time::Duration;

/// Doubling waits with full-range jitter between one half and the whole.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with about `first`, ends with at most `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            next: first,
            longest,
        }
    }

    /// The next wait; no shorter than what the other side asked for, where it asked.
    pub fn wait(&mut self, asked_for: Option<Duration>) -> Duration {
        let wait = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        asked_for.map_or(wait, |asked| asked.max(wait))
    }
}
