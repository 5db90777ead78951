//! Polls that return no rows for a long time without failing. One such poll is normal, so only a long time is worth a
//! log line.

use std::time::Duration;

use tokio::time::Instant;

use crate::outcome::PollResult;

/// Pods collide, or nothing changes, for minutes at a time every day.
const WORTH_A_LINE: Duration = Duration::from_hours(1);

#[derive(Debug, Default)]
pub(super) struct QuietPolls {
    since: Option<(PollResult, Instant)>,
    has_line: bool,
}

impl QuietPolls {
    /// Records how a poll ended. Returns how long all polls have ended like this if a log line is due, which is once
    /// per spell.
    pub fn ended(&mut self, result: PollResult, now: Instant) -> Option<Duration> {
        match self.since {
            Some((same, since)) if same == result => {
                let lasted = now.duration_since(since);
                let is_due = lasted >= WORTH_A_LINE && !self.has_line;
                self.has_line |= is_due;
                is_due.then_some(lasted)
            }
            _ => {
                let is_quiet = matches!(result, PollResult::Empty | PollResult::Contended);
                self.since = is_quiet.then_some((result, now));
                self.has_line = false;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_hour_of_empty_or_contended_polls_is_worth_a_line() {
        use PollResult::{Contended, Empty, Failed, Found};
        let minutes = Duration::from_mins;
        let start = Instant::now();
        // The polls by minute, and the minutes with a line.
        for (polls, lines) in [
            ([Empty; 3], [None, Some(60), None]),
            ([Contended; 3], [None, Some(60), None]),
            ([Failed; 3], [None; 3]),
            ([Found; 3], [None; 3]),
            ([Empty, Contended, Contended], [None, None, Some(60)]),
            ([Empty, Found, Empty], [None; 3]),
        ] {
            let mut quiet_polls = QuietPolls::default();
            for (hour, (result, line)) in (0_u64..).zip(polls.into_iter().zip(lines)) {
                let returned = quiet_polls.ended(result, start + minutes(60 * hour));
                assert_eq!(returned, line.map(minutes), "{polls:?} {hour}");
            }
        }
    }
}
