//! An episode of failures in the log: a line when it is worth one, a reminder every 10 minutes, and a line when it
//! ends.

use std::time::Duration;

use tokio::time::Instant;

const REMINDER: Duration = Duration::from_mins(10);

/// Failures with few successes between them.
#[derive(Debug, Default)]
pub(crate) struct Episode {
    /// The first failure and the last one.
    failures: Option<(Instant, Instant)>,
    last_line: Option<Instant>,
    /// The first failure since the last success.
    unbroken_since: Option<Instant>,
}

impl Episode {
    /// Records a failure. Returns how long the episode has lasted if a log line is due. The first line is due when the
    /// episode has lasted for `worth_a_line`.
    pub fn failed(&mut self, worth_a_line: Duration, now: Instant) -> Option<Duration> {
        let (since, last_failure) = self.failures.get_or_insert((now, now));
        *last_failure = now;
        self.unbroken_since.get_or_insert(now);
        let lasted = now.duration_since(*since);
        let is_news = |line| now.duration_since(line) >= REMINDER;
        let is_due = lasted >= worth_a_line && self.last_line.is_none_or(is_news);
        is_due.then(|| {
            self.last_line = Some(now);
            lasted
        })
    }

    /// Records a success. Returns how long the episode lasted if the success ends it and it is in the log.
    ///
    /// Two kinds of success end an episode that is in the log: the first one after failures for at least `steady`, and
    /// any one at least `steady` after the last failure. An episode that is not in the log ends with any success.
    pub fn succeeded(&mut self, steady: Duration, now: Instant) -> Option<Duration> {
        let (since, last_failure) = self.failures?;
        let has_line = self.last_line.is_some();
        let is_steady = |since| now.duration_since(since) >= steady;
        let was_unbroken = self.unbroken_since.take().is_some_and(is_steady);
        if has_line && !was_unbroken && !is_steady(last_failure) {
            return None;
        }
        *self = Self::default();
        has_line.then(|| last_failure.duration_since(since))
    }

    pub fn lasts(&self) -> bool {
        self.failures.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Duration = Duration::from_mins(1);

    #[test]
    fn an_episode_is_logged_at_start_end_and_every_ten_minutes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut episode = Episode::default();
        let worth_a_line = Duration::from_secs(5);
        let lines: Vec<_> = (0..1_500)
            .filter_map(|second| episode.failed(worth_a_line, at(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(lines, [5, 605, 1205]);
        // After this long without a success, the first one ends it.
        let lasted = Duration::from_secs(1_499);
        assert_eq!(episode.succeeded(STEADY, at(1_500)), Some(lasted));
        assert_eq!(episode.succeeded(STEADY, at(1_501)), None);
    }

    #[test]
    fn a_short_episode_ends_once_it_has_been_steady() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut episode = Episode::default();
        assert!(episode.failed(Duration::ZERO, start).is_some());
        assert_eq!(episode.succeeded(STEADY, at(59)), None);
        assert!(episode.succeeded(STEADY, at(60)).is_some());
    }

    #[test]
    fn an_episode_lasts_while_every_second_call_fails() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut episode = Episode::default();
        let mut lines = 0;
        for second in (0..600).step_by(20) {
            lines += u32::from(episode.failed(Duration::ZERO, at(second)).is_some());
            assert_eq!(episode.succeeded(STEADY, at(second + 10)), None);
        }
        assert_eq!(lines, 1);
        let lasted = Duration::from_secs(580);
        assert_eq!(episode.succeeded(STEADY, at(640)), Some(lasted));
    }

    #[test]
    fn a_short_episode_is_not_worth_a_line() {
        let start = Instant::now();
        let mut episode = Episode::default();
        assert_eq!(episode.failed(Duration::from_secs(5), start), None);
        assert_eq!(episode.succeeded(STEADY, start), None);
    }
}
