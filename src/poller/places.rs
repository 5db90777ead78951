//! How many rows may be worked on at once, and how that number falls and grows while rows are in trouble.
//!
//! Pure: time is an argument. `held` owns the one instance of a pod.
//!
//! `free + running + lost = total`, and `lost <= in_trouble`. A row loses its place with its first failed call. Each
//! settled row brings one lost place back. While no row is settled, a clock brings lost places back instead, at growing
//! intervals. So an outage leaves a trickle of claims. After the outage, each new row that is settled allows two more:
//! it returns its own place and a lost one. (TCP handles congestion like this.)

use std::time::Duration;

use tokio::time::Instant;

/// The clock's first interval. In an outage, each tick claims one more row that cannot be settled. A bad offender at
/// the head of a backlog delays the rows behind it by one tick: with 250 ms, 40 bad offenders in front of 1,000 good
/// rows delay these by 4 to 7 s.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);

/// From this many rows beyond the held limit on, no row restarts the clock. While its intervals grow,
/// the clock claims about as many rows again within one lease.
const BEYOND_LIMIT: usize = 64;

/// The places of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Places {
    free: usize,
    running: usize,
    lost: usize,
    in_trouble: usize,
    held: usize,
    held_limit: usize,
    interval: Duration,
    longest_interval: Duration,
    last_tick: Instant,
    /// When the latest identifiers call that was answered was sent.
    last_answered: Option<Instant>,
}

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To claim a row.
    Claim,
    /// To work on a held row, whose turn in its lane has come.
    Turn,
}

/// How a row stopped being held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Deleted, or marked as permanently failed.
    Settled,
    /// Left locked, or its task panicked.
    Left,
}

/// How a held row uses the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has a place.
    Running,
    /// It waits for its lane, without a place.
    Waiting,
    /// A call for it has failed. It goes on without its place, which is lost.
    InTrouble,
}

impl Places {
    /// All `total` places are free. Once `held_limit` rows are held, only the clock claims rows. Its intervals grow up
    /// to `longest_interval`.
    pub fn new(total: usize, held_limit: usize, longest_interval: Duration, now: Instant) -> Self {
        Self {
            free: total,
            running: 0,
            lost: 0,
            in_trouble: 0,
            held: 0,
            held_limit,
            interval: FIRST_INTERVAL.min(longest_interval),
            longest_interval,
            last_tick: now,
            last_answered: None,
        }
    }

    /// Takes a place. If there is none now, the error is the time to ask again, or `None` if only another row's end can
    /// help.
    pub fn want(&mut self, purpose: Purpose, now: Instant) -> Result<(), Option<Instant>> {
        let is_full = purpose == Purpose::Claim && self.is_full();
        if self.free > 0 && !is_full {
            self.free -= 1;
            self.running += 1;
            return Ok(());
        }
        if self.free == 0 && self.lost == 0 {
            return Err(None);
        }
        let next_tick = self.last_tick + self.interval;
        if now < next_tick {
            return Err(Some(next_tick));
        }
        self.last_tick = now;
        self.interval = (self.interval * 8 / 7).min(self.longest_interval);
        if self.lost > 0 {
            self.lost -= 1;
        } else {
            self.free -= 1;
        }
        self.running += 1;
        Ok(())
    }

    /// A claim returned no row, or a row waits for its lane.
    pub fn give_back(&mut self) {
        self.running -= 1;
        self.free += 1;
    }

    /// A claim returned a row, which takes over the claim's place. `came_back`: the row was left locked before.
    ///
    /// Such a row restarts the clock. community-api serves the oldest row first. If the clock stayed slow while no row is
    /// settled, the 30 oldest rows that always fail would come back before the pod claims any other.
    pub fn hold(&mut self, came_back: bool) {
        self.held += 1;
        if came_back {
            self.restart_clock_within_limit();
        }
    }

    /// The first call of a running row has failed.
    pub fn lose(&mut self, now: Instant) {
        if self.in_trouble == 0 {
            self.restart_clock();
            self.last_tick = now;
        }
        self.running -= 1;
        self.lost += 1;
        self.in_trouble += 1;
    }

    /// A row is no longer held.
    pub fn end(&mut self, standing: Standing, end: End) {
        self.held -= 1;
        match standing {
            Standing::Running => self.give_back(),
            Standing::Waiting => {}
            Standing::InTrouble => self.in_trouble -= 1,
        }
        if end == End::Settled {
            self.bring_back(1);
            self.restart_clock_within_limit();
        }
        self.bring_back(self.lost.saturating_sub(self.in_trouble));
    }

    /// Whether the held limit is reached, so that only the clock claims more rows.
    pub fn is_full(&self) -> bool {
        self.held >= self.held_limit
    }

    /// community-api has answered an identifiers call that was sent at `asked`.
    pub fn answered(&mut self, asked: Instant) {
        self.last_answered = self.last_answered.max(Some(asked));
    }

    /// Whether a row whose identifiers have failed since `first_failure` must leave. It must if the pod holds too many
    /// rows, and community-api has answered a call for another row that was sent after `first_failure`, and before the
    /// latest attempt was `started`. In an outage no call is answered, so no row leaves.
    pub fn is_crowded_out(&self, first_failure: Instant, started: Instant) -> bool {
        let is_between = |asked| first_failure < asked && asked < started;
        self.is_full() && self.last_answered.is_some_and(is_between)
    }

    /// The number of lost places.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// The number of rows in trouble.
    pub fn in_trouble(&self) -> usize {
        self.in_trouble
    }

    fn bring_back(&mut self, places: usize) {
        let places = places.min(self.lost);
        self.lost -= places;
        self.free += places;
    }

    /// Not if far too many are held: while every second row is in trouble, they would grow without bound.
    fn restart_clock_within_limit(&mut self) {
        if self.held < self.held_limit + BEYOND_LIMIT {
            self.restart_clock();
        }
    }

    fn restart_clock(&mut self) {
        self.interval = FIRST_INTERVAL.min(self.longest_interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a story with one letter per event, on 2 places and with a held limit of 4.
    ///
    /// | letter | event |
    /// |---|---|
    /// | `c`, `x` | a claim gets a place and brings a row; a claim gets no place |
    /// | `r` | a claim gets a place and brings a row that was left locked before |
    /// | `e` | a claim gets a place and brings no row |
    /// | `f` | the first call of a running row fails |
    /// | `s`, `S` | a running row is settled; a row in trouble is settled |
    /// | `l`, `L` | a running row is left; a row in trouble is left |
    /// | `w`, `W` | a running row waits for its turn; a waiting row is left |
    /// | `t` | the turn of a waiting row has come, and it gets a place |
    /// | `.`, `_` | 250 ms pass; 20 s pass |
    fn play(story: &str) -> String {
        let mut now = Instant::now();
        let mut places = Places::new(2, 4, Duration::from_secs(20), now);
        for (index, event) in story.char_indices() {
            let so_far = &story[..=index];
            match event {
                'c' | 'r' => {
                    assert_eq!(places.want(Purpose::Claim, now), Ok(()), "{so_far}");
                    places.hold(event == 'r');
                }
                'x' => assert!(places.want(Purpose::Claim, now).is_err(), "{so_far}"),
                'e' => {
                    assert_eq!(places.want(Purpose::Claim, now), Ok(()), "{so_far}");
                    places.give_back();
                }
                'f' => places.lose(now),
                's' => places.end(Standing::Running, End::Settled),
                'S' => places.end(Standing::InTrouble, End::Settled),
                'l' => places.end(Standing::Running, End::Left),
                'L' => places.end(Standing::InTrouble, End::Left),
                'w' => places.give_back(),
                'W' => places.end(Standing::Waiting, End::Left),
                't' => assert_eq!(places.want(Purpose::Turn, now), Ok(()), "{so_far}"),
                '.' => now += FIRST_INTERVAL,
                '_' => now += Duration::from_secs(20),
                _ => panic!("{event} is not an event"),
            }
            assert_eq!(places.free + places.running + places.lost, 2, "{so_far}");
            assert!(places.lost <= places.in_trouble, "{so_far}");
        }
        let (lost, in_trouble) = (places.lost(), places.in_trouble());
        let Places {
            free,
            running,
            held,
            ..
        } = places;
        format!("{free} free, {running} running, {lost} lost, {in_trouble} in trouble, {held} held")
    }

    #[test]
    fn each_story_ends_as_expected() {
        for (story, end) in [
            ("", "2 free, 0 running, 0 lost, 0 in trouble, 0 held"),
            ("e", "2 free, 0 running, 0 lost, 0 in trouble, 0 held"),
            ("cc", "0 free, 2 running, 0 lost, 0 in trouble, 2 held"),
            ("ccx_x", "0 free, 2 running, 0 lost, 0 in trouble, 2 held"),
            ("ccsc", "0 free, 2 running, 0 lost, 0 in trouble, 2 held"),
            ("ccl", "1 free, 1 running, 0 lost, 0 in trouble, 1 held"),
            // A row that waits for its turn gives its place to others.
            ("ccwc", "0 free, 2 running, 0 lost, 0 in trouble, 3 held"),
            ("ccwcst", "0 free, 2 running, 0 lost, 0 in trouble, 2 held"),
            ("ccwW", "1 free, 1 running, 0 lost, 0 in trouble, 1 held"),
            // The place of a row in trouble is lost.
            ("cf", "1 free, 0 running, 1 lost, 1 in trouble, 1 held"),
            ("cfcs", "2 free, 0 running, 0 lost, 1 in trouble, 1 held"),
            // Without a settled row the clock brings places back, each later than the one before.
            ("cfcfx", "0 free, 0 running, 2 lost, 2 in trouble, 2 held"),
            ("cfcf.c", "0 free, 1 running, 1 lost, 2 in trouble, 3 held"),
            (
                "cfcf.cf.x",
                "0 free, 0 running, 2 lost, 3 in trouble, 3 held",
            ),
            (
                "cfcf.cf..c",
                "0 free, 1 running, 1 lost, 3 in trouble, 4 held",
            ),
            // A row that comes back restarts the clock.
            (
                "cfcf.rf.r",
                "0 free, 1 running, 1 lost, 3 in trouble, 4 held",
            ),
            // A settled row brings back one lost place besides its own, and restarts the clock.
            ("cfcf.cs", "2 free, 0 running, 0 lost, 2 in trouble, 2 held"),
            ("cfcfS", "1 free, 0 running, 1 lost, 1 in trouble, 1 held"),
            (
                "cfcf.cf..cS.c",
                "0 free, 2 running, 0 lost, 2 in trouble, 4 held",
            ),
            (
                "cfcf.cf..cfScf.c",
                "0 free, 1 running, 1 lost, 4 in trouble, 5 held",
            ),
            // A row that is left brings none back, but no more are lost than rows are in trouble.
            (
                "cfcf.cfL",
                "0 free, 0 running, 2 lost, 2 in trouble, 2 held",
            ),
            (
                "cfcf.cfLL",
                "1 free, 0 running, 1 lost, 1 in trouble, 1 held",
            ),
            ("cfcfLL", "2 free, 0 running, 0 lost, 0 in trouble, 0 held"),
            // At the limit of held rows, only the clock claims rows.
            (
                "cwcwcwcw.cwx",
                "2 free, 0 running, 0 lost, 0 in trouble, 5 held",
            ),
            (
                "cwcwcwcw.cwx.x.c",
                "1 free, 1 running, 0 lost, 0 in trouble, 6 held",
            ),
            (
                "cwcwcwcwts.c",
                "1 free, 1 running, 0 lost, 0 in trouble, 4 held",
            ),
            // The turn of a held row does not depend on the limit.
            (
                "cwcwcwcwtt",
                "0 free, 2 running, 0 lost, 0 in trouble, 4 held",
            ),
        ] {
            assert_eq!(play(story), end, "{story}");
        }
    }

    #[test]
    fn a_settled_row_restarts_the_clock_unless_too_many_are_held() {
        let start = Instant::now();
        for (still_held, starts_afresh) in [(1, true), (65, true), (66, false), (67, false)] {
            let mut places = Places::new(1, 2, Duration::from_secs(20), start);
            places.held = still_held + 1;
            places.interval = Duration::from_secs(5);
            places.end(Standing::Waiting, End::Settled);
            let is_first = places.interval == FIRST_INTERVAL;
            assert_eq!(is_first, starts_afresh, "{still_held}");
        }
    }

    #[test]
    fn a_row_is_crowded_out_only_if_calls_for_others_are_answered_meanwhile() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        // The limit of held rows, when the calls were sent that were answered, the first failure, the latest attempt.
        for (held_limit, answered, first_failure, started, is_crowded_out) in [
            (1, &[5][..], 4, 6, true),
            (1, &[5], 5, 6, false),
            (1, &[5], 4, 5, false),
            (1, &[5, 3], 4, 6, true),
            (1, &[], 4, 6, false),
            (2, &[5], 4, 6, false),
        ] {
            let mut places = Places::new(2, held_limit, Duration::from_secs(20), start);
            assert_eq!(places.want(Purpose::Turn, start), Ok(()));
            places.hold(false);
            for &asked in answered {
                places.answered(at(asked));
            }
            let crowded_out = places.is_crowded_out(at(first_failure), at(started));
            assert_eq!(
                crowded_out, is_crowded_out,
                "{held_limit} {first_failure} {started}"
            );
        }
    }

    #[test]
    fn the_clock_slows_down_to_its_longest_interval() {
        let start = Instant::now();
        let mut places = Places::new(1, 1_000, Duration::from_secs(20), start);
        let mut now = start;
        let mut ticks = 0;
        while now < start + Duration::from_secs(570) {
            match places.want(Purpose::Claim, now) {
                Ok(()) => {
                    places.hold(false);
                    places.lose(now);
                    ticks += 1;
                }
                Err(Some(next)) => now = next,
                Err(None) => panic!("the clock has stopped"),
            }
        }
        // In an outage as long as a lease, the pod holds this many rows besides those with places.
        assert_eq!(ticks, 55);
        assert_eq!(places.interval, Duration::from_secs(20));
    }
}
