//! An episode of failures, as the log tells it: a line when it is worth one, a reminder every ten minutes, a line at its end.

use std::time::Duration;

use tokio::time::Instant;

/// While an episode lasts, the log says so again after this time.
const REMINDER: Duration = Duration::from_mins(10);

/// Failures without a success between them.
#[derive(Debug, Default)]
pub(crate) struct Episode {
    since: Option<Instant>,
    last_line: Option<Instant>,
}

impl Episode {
    /// Notes a failure. If a line is due, since the episode has lasted for `worth_a_line`, the result is how long it has lasted.
    pub fn failed(&mut self, worth_a_line: Duration, now: Instant) -> Option<Duration> {
        let lasted = now.duration_since(*self.since.get_or_insert(now));
        let is_news = |line| now.duration_since(line) >= REMINDER;
        let is_due = lasted >= worth_a_line && self.last_line.is_none_or(is_news);
        is_due.then(|| {
            self.last_line = Some(now);
            lasted
        })
    }

    /// Notes a success. If the log has mentioned the episode, the result is how long it lasted.
    pub fn ended(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        self.last_line.take()?;
        Some(now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_the_start_every_ten_minutes_and_at_the_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut episode = Episode::default();
        let worth_a_line = Duration::from_secs(5);
        let lines: Vec<_> = (0..1_500)
            .filter_map(|second| episode.failed(worth_a_line, at(second)))
            .map(|lasted| lasted.as_secs())
            .collect();
        assert_eq!(lines, [5, 605, 1205]);
        assert_eq!(episode.ended(at(1_500)), Some(Duration::from_mins(25)));
        assert_eq!(episode.ended(at(1_501)), None);
    }

    #[test]
    fn a_short_episode_is_not_worth_a_line() {
        let start = Instant::now();
        let mut episode = Episode::default();
        assert_eq!(episode.failed(Duration::from_secs(5), start), None);
        assert_eq!(episode.ended(start), None);
    }
}
