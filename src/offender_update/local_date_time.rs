//! Delius's date-times, which are local and have no zone: how they are read and printed, and how long ago they were.

use std::fmt;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The zone in which Delius writes its local times.
static LONDON: TimeZone = jiff::tz::get!("Europe/London");

/// A local date and time of Delius, without a zone.
///
/// It is read from `yyyy-MM-ddTHH:mm[:ss[.fraction]]` with a fraction of up to nine digits. The text may have `t`
/// instead of `T`, white space around it, and a trailing `Z`, which is ignored. It is always printed with seconds, and
/// without trailing zeros of the fraction. The service's predecessor did both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalDateTime(DateTime);

impl std::str::FromStr for LocalDateTime {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHORTEST: usize = "yyyy-MM-ddTHH:mm".len();
        let wrong = "is not an existing local date-time of the form yyyy-MM-ddTHH:mm:ss";
        let local = text.trim();
        let local = local
            .strip_suffix('Z')
            .unwrap_or(local)
            .to_ascii_uppercase();
        let read: DateTime = local.trim_end_matches('.').parse().map_err(|_| wrong)?;
        // The library also accepts an offset, a space, a leap second, a missing time and more. Delius writes none of
        // them. Ignoring an offset would be wrong by hours. So the text must be what the library prints, in full or cut
        // off.
        let printed = read.strftime("%Y-%m-%dT%H:%M:%S%.9f").to_string();
        let is_local = local.len() >= SHORTEST && printed.starts_with(&local);
        is_local.then_some(Self(read)).ok_or(wrong)
    }
}

impl fmt::Display for LocalDateTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%S%.f"))
    }
}

impl LocalDateTime {
    /// How long ago this was at `now`. In the hour that occurs twice when summer time ends, it is the smallest age that
    /// is not negative. A time in the future has the age zero.
    pub fn age(&self, now: Timestamp) -> Duration {
        let readings = LONDON.to_ambiguous_timestamp(self.0);
        [readings.later(), readings.earlier()]
            .into_iter()
            .flatten()
            .map(|reading| now.duration_since(reading))
            .filter(|age| *age >= SignedDuration::ZERO)
            .min()
            .and_then(|age| age.try_into().ok())
            .unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_are_read_and_printed_as_the_predecessor_did() {
        for (read, printed) in [
            ("2020-07-19T13:56", "2020-07-19T13:56:00"),
            ("2020-07-19T13:56:43", "2020-07-19T13:56:43"),
            ("2020-07-19T13:56:43Z", "2020-07-19T13:56:43"),
            ("2020-07-19T13:56:43.120", "2020-07-19T13:56:43.12"),
            ("2020-07-19T13:56:43.000", "2020-07-19T13:56:43"),
            (
                "2020-07-19T13:56:43.123456789",
                "2020-07-19T13:56:43.123456789",
            ),
            ("2020-02-29T00:00:00.100000000Z", "2020-02-29T00:00:00.1"),
            (" 2020-07-19t13:56:43.120 ", "2020-07-19T13:56:43.12"),
            ("2020-07-19T13:56:43.", "2020-07-19T13:56:43"),
        ] {
            assert_eq!(read.parse::<LocalDateTime>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn date_times_that_do_not_exist_or_carry_an_offset_are_refused() {
        for text in [
            "",
            "Z",
            "2020-07-19",
            "2020-07-19 13:56:43",
            "2020-07-19T13:56:43+01:00",
            "2020-07-19T13:56:43-01",
            "2020-07-19T13:56:43[Europe/London]",
            "2020-07-19T13:56:43.120+01:00",
            "2020-07-19T13:56:43.1234567890",
            "2020-07-19T13:56:43ZZ",
            "2020-07-19T24:00:00",
            "2020-07-19T13:56:60",
            "2020-07-19T13:56.",
            "2020-02-30T10:00:00",
            "2021-02-29T10:00:00",
            "20200719T135643",
            "2020-07-19T13:5é:43",
            "-2020-07-19T13:56",
        ] {
            assert!(text.parse::<LocalDateTime>().is_err(), "{text}");
        }
    }

    #[test]
    fn age_is_measured_in_london_time_through_both_changes_of_the_clock() {
        for (changed, now, seconds) in [
            ("2026-07-01T13:00:00", "2026-07-01T12:00:05Z", 5),
            ("2026-12-01T13:00:00", "2026-12-01T13:00:05Z", 5),
            // 01:30 occurs twice on 25 October 2026: at 00:30Z and at 01:30Z.
            ("2026-10-25T01:30:00", "2026-10-25T00:30:10Z", 10),
            ("2026-10-25T01:30:00", "2026-10-25T01:30:10Z", 10),
            // 01:30 does not occur on 29 March 2026.
            ("2026-03-29T01:30:00", "2026-03-29T01:30:10Z", 10),
            ("2026-07-01T13:00:09", "2026-07-01T12:00:05Z", 0),
        ] {
            let age = changed
                .parse::<LocalDateTime>()
                .unwrap()
                .age(now.parse().unwrap());
            assert_eq!(age, Duration::from_secs(seconds), "{changed} {now}");
        }
    }
}
