//! The brake on permanent failures. If many rows fail permanently in a short time, community-api is probably wrong, and
//! the offenders still exist.

use std::time::Duration;

use tokio::time::Instant;

/// Counts permanent failures in a window, and refuses further ones above a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Brake {
    limit: usize,
    window: Duration,
    /// No longer than `limit`.
    marked_at: std::collections::VecDeque<Instant>,
    on_until: Option<Instant>,
}

/// The answer for a row that is to be marked as permanently failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrakeAnswer {
    /// Mark it.
    Allowed,
    /// Leave the row locked. It is the first row that the brake stops.
    Engaged,
    /// Leave the row locked.
    On,
}

impl Brake {
    /// Allows `limit` permanent failures in any `window`. The next one turns the brake on for a whole `window`.
    pub fn new(limit: usize, window: Duration) -> Self {
        Self {
            limit,
            window,
            marked_at: std::collections::VecDeque::new(),
            on_until: None,
        }
    }

    /// Whether the brake is on at this time.
    pub fn is_on(&self, now: Instant) -> bool {
        self.on_until.is_some_and(|until| now < until)
    }

    /// Asks whether one more row may be marked.
    pub fn ask(&mut self, now: Instant) -> BrakeAnswer {
        if self.is_on(now) {
            return BrakeAnswer::On;
        }
        if self.on_until.take().is_some() {
            self.marked_at.clear();
        }
        while self
            .marked_at
            .front()
            .is_some_and(|&marked| now.duration_since(marked) >= self.window)
        {
            self.marked_at.pop_front();
        }
        if self.marked_at.len() >= self.limit {
            self.on_until = Some(now + self.window);
            return BrakeAnswer::Engaged;
        }
        self.marked_at.push_back(now);
        BrakeAnswer::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake_engages_above_the_limit_and_releases_after_a_whole_window() {
        let minutes = |count| Duration::from_mins(count);
        let start = Instant::now();
        let mut brake = Brake::new(3, minutes(10));
        for minute in 0..3 {
            assert_eq!(brake.ask(start + minutes(minute)), BrakeAnswer::Allowed);
        }
        assert_eq!(brake.ask(start + minutes(9)), BrakeAnswer::Engaged);
        assert_eq!(brake.ask(start + minutes(12)), BrakeAnswer::On);
        assert!(brake.is_on(start + minutes(18)));
        assert!(!brake.is_on(start + minutes(19)));
        for _ in 0..3 {
            assert_eq!(brake.ask(start + minutes(19)), BrakeAnswer::Allowed);
        }
        assert_eq!(brake.ask(start + minutes(19)), BrakeAnswer::Engaged);
    }

    #[test]
    fn failures_spread_over_more_than_the_window_never_engage_it() {
        let start = Instant::now();
        let mut brake = Brake::new(2, Duration::from_mins(10));
        for step in 0..100 {
            assert_eq!(
                brake.ask(start + Duration::from_mins(5) * step),
                BrakeAnswer::Allowed
            );
        }
    }
}
