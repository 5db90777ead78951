//! What a seed stands for: pods and their settings, rows, and everything that goes wrong and when.

use std::time::Duration;

use fastrand::Rng;
use probation_offender_events::config::PollerSettings;

use crate::faults::{FAULT_KINDS, FaultKind, Outage, Rates, Symptom};
use crate::log::Endpoint;
use crate::rows::TABLES;

/// What a run is about. Some promises can be seen only in a run without other troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Everything at once.
    Chaos,
    /// One outage of one endpoint, shorter than the lease.
    Outage,
    /// No tokens for a while.
    AuthOutage,
    /// A healthy world in which pods are stopped and started.
    RollingRestart,
    /// Bad rows in a healthy world.
    BadRows,
}

/// The fault of an offender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offender {
    Well,
    /// Visible to community-api from this time on. `None` means never.
    Hidden {
        until: Option<Duration>,
    },
    /// Identifiers always fail.
    Fails,
    /// Identifiers fail until this time.
    FailsUntil(Duration),
    /// Identifiers never answer.
    Hangs,
}

/// A row to be inserted.
#[derive(Clone, Debug)]
pub struct RowPlan {
    pub insert_at: Duration,
    /// An index of the plan's offenders.
    pub offender: usize,
    pub table: &'static str,
    pub record: Option<i64>,
    pub unreadable: bool,
    /// The topic never accepts the row's last event.
    pub refused: bool,
    /// Locked long ago by another caller, and left.
    pub failed_before: bool,
}

/// The end of a process, and how long its replica is missing.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    pub replica: usize,
    pub at: Duration,
    pub pause: Duration,
    pub how: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Sigterm,
    /// Killed this many steps of calls later.
    Kill {
        steps: u64,
    },
}

/// Something that happens to the clocks.
#[derive(Clone, Copy, Debug)]
pub enum ClockFault {
    /// No pod acts for this long.
    Stall(Duration),
    /// No pod acts for this long except one, which takes every row that it can claim at the end.
    StallOfAllButOne(Duration),
    /// Delius' clock jumps by this many seconds.
    Jump(i64),
}

/// All that a run needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub pods: usize,
    pub settings: PollerSettings,
    /// The lock expiry of Delius, which pods may have other settings for.
    pub lock_expiry: Duration,
    pub offenders: Vec<Offender>,
    pub rows: Vec<RowPlan>,
    pub rates: Rates,
    pub outages: Vec<Outage>,
    /// By time.
    pub restarts: Vec<Restart>,
    /// By time.
    pub clock_faults: Vec<(Duration, ClockFault)>,
    /// From then on, everything is healthy except bad rows.
    pub trouble_ends: Duration,
}

/// Delius serves a new row after this time.
pub const SERVE_AFTER_SECONDS: i64 = 2;

fn seconds(rng: &mut Rng, range: std::ops::RangeInclusive<u64>) -> Duration {
    let milliseconds = rng.u64(range.start() * 1000..=range.end() * 1000);
    Duration::from_millis(milliseconds)
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let kind = match rng.u8(..20) {
            0..=11 => Kind::Chaos,
            12..=14 => Kind::Outage,
            15 => Kind::AuthOutage,
            16..=17 => Kind::RollingRestart,
            _ => Kind::BadRows,
        };
        let settings = settings(kind, &mut rng);
        let mut plan = Self {
            seed,
            kind,
            pods: rng.usize(1..=6),
            lock_expiry: settings.lock_expiry,
            settings,
            offenders: vec![Offender::Well; rng.usize(2..=12)],
            rows: Vec::new(),
            rates: Rates {
                share: 0.0,
                kinds: Vec::new(),
                usual_milliseconds: *rng.choice(&[10, 30, 60, 400]).unwrap(),
            },
            outages: Vec::new(),
            restarts: Vec::new(),
            clock_faults: Vec::new(),
            trouble_ends: Duration::ZERO,
        };
        plan.trouble_ends = match kind {
            Kind::Chaos => seconds(&mut rng, 60..=1800),
            Kind::Outage | Kind::AuthOutage => {
                plan.longest_outage_survived() + seconds(&mut rng, 30..=60)
            }
            Kind::RollingRestart | Kind::BadRows => seconds(&mut rng, 30..=300),
        };
        plan.draw_rows(&mut rng);
        match kind {
            Kind::Chaos => plan.draw_chaos(&mut rng),
            Kind::Outage | Kind::AuthOutage => plan.draw_single_outage(&mut rng),
            Kind::RollingRestart => {
                for _ in 0..rng.usize(1..=8) {
                    plan.draw_restart(Ending::Sigterm, &mut rng);
                }
            }
            Kind::BadRows => {}
        }
        plan.rows.sort_by_key(|row| row.insert_at);
        plan.restarts.sort_by_key(|restart| restart.at);
        plan.clock_faults.sort_by_key(|fault| fault.0);
        plan
    }

    /// The longest outage whose rows in flight can still be published inside their lease.
    pub fn longest_outage_survived(&self) -> Duration {
        let spent = self.settings.publish_timeout
            + self.settings.call_timeout * 3
            + Duration::from_secs(30);
        (self.lock_expiry * 95 / 100).saturating_sub(spent)
    }

    fn draw_rows(&mut self, rng: &mut Rng) {
        let has_bad_rows = matches!(self.kind, Kind::Chaos | Kind::BadRows);
        if has_bad_rows {
            for index in 1..self.offenders.len() {
                self.offenders[index] = match rng.u8(..16) {
                    0 => Offender::Hidden { until: None },
                    1 => Offender::Hidden {
                        until: Some(seconds(rng, 1..=900)),
                    },
                    2 => Offender::Fails,
                    3 => Offender::Hangs,
                    _ => Offender::Well,
                };
            }
        }
        let records = rng.i64(1..=40);
        let share_bad = if has_bad_rows { rng.f64() * 0.1 } else { 0.0 };
        for _ in 0..rng.usize(5..=80) {
            let at_start = rng.u8(..3) == 0;
            let insert_at = if at_start {
                Duration::ZERO
            } else {
                self.trouble_ends.mul_f64(rng.f64())
            };
            self.rows.push(RowPlan {
                insert_at,
                offender: rng.usize(..self.offenders.len()),
                table: rng.choice(&TABLES[..]).unwrap(),
                record: (rng.u8(..10) > 0).then(|| rng.i64(1..=records)),
                unreadable: rng.f64() < share_bad,
                refused: rng.f64() < share_bad,
                failed_before: rng.f64() < share_bad,
            });
        }
    }

    fn draw_chaos(&mut self, rng: &mut Rng) {
        self.rates.share = *rng.choice(&[0.0, 0.02, 0.1, 0.3]).unwrap();
        self.rates.kinds = FAULT_KINDS
            .iter()
            .map(|&(kind, _)| kind)
            .filter(|kind| match kind {
                FaultKind::FalseNotFound | FaultKind::Refused => rng.u8(..6) == 0,
                _ => rng.bool(),
            })
            .collect();
        for _ in 0..rng.usize(0..=3) {
            self.draw_outage(rng);
        }
        for _ in 0..rng.usize(0..=4) {
            let steps = rng.u64(..60);
            self.draw_restart(Ending::Kill { steps }, rng);
        }
        for _ in 0..rng.usize(0..=2) {
            self.draw_restart(Ending::Sigterm, rng);
        }
        let at = |rng: &mut Rng, end: Duration| end.mul_f64(rng.f64());
        for _ in 0..rng.usize(0..=2) {
            let stall = self.lock_expiry.mul_f64(rng.f64() * 1.2);
            let at = at(rng, self.trouble_ends);
            let fault = if rng.bool() {
                ClockFault::Stall(stall)
            } else {
                ClockFault::StallOfAllButOne(stall)
            };
            self.clock_faults.push((at, fault));
        }
        // In total less than the margin of a lease, which is there for this.
        let most = i64::try_from(self.lock_expiry.as_secs()).unwrap() * 4 / 100 - 1;
        if most > 0 && rng.bool() {
            let at = at(rng, self.trouble_ends);
            self.clock_faults
                .push((at, ClockFault::Jump(rng.i64(-most..=most))));
        }
    }

    fn draw_outage(&mut self, rng: &mut Rng) {
        let from = self.trouble_ends.mul_f64(rng.f64());
        let endpoint = match rng.u8(..12) {
            0 => None,
            1..=2 => Some(Endpoint::Next),
            3..=5 => Some(Endpoint::Identifiers),
            6..=7 => Some(Endpoint::Delete),
            8 => Some(Endpoint::Mark),
            _ => Some(Endpoint::Publish),
        };
        let symptom = match (endpoint, rng.u8(..6)) {
            (None, _) => Symptom::Unauthorised,
            (Some(Endpoint::Identifiers), 5) => Symptom::AnswersNotFound,
            (_, 0) => Symptom::Hangs,
            (_, 1) => Symptom::Throttles,
            (_, 2) => Symptom::ThrottlesWithRetryAfter,
            (_, 3) => Symptom::LosesAnswers,
            _ => Symptom::Fails,
        };
        self.outages.push(Outage {
            from,
            to: (from + seconds(rng, 5..=900)).min(self.trouble_ends),
            endpoint,
            symptom,
        });
    }

    fn draw_single_outage(&mut self, rng: &mut Rng) {
        let length = self.longest_outage_survived().mul_f64(rng.f64());
        let from = self.trouble_ends.saturating_sub(length).mul_f64(rng.f64());
        let (endpoint, symptom) = if self.kind == Kind::AuthOutage {
            (None, Symptom::Unauthorised)
        } else {
            let endpoints = [Endpoint::Identifiers, Endpoint::Publish, Endpoint::Delete];
            let symptoms = [
                Symptom::Fails,
                Symptom::Hangs,
                Symptom::Throttles,
                Symptom::ThrottlesWithRetryAfter,
            ];
            (
                Some(*rng.choice(&endpoints).unwrap()),
                *rng.choice(&symptoms).unwrap(),
            )
        };
        self.outages.push(Outage {
            from,
            to: from + length,
            endpoint,
            symptom,
        });
    }

    fn draw_restart(&mut self, how: Ending, rng: &mut Rng) {
        self.restarts.push(Restart {
            replica: rng.usize(..self.pods),
            at: self.trouble_ends.mul_f64(rng.f64()),
            pause: seconds(rng, 0..=60),
            how,
        });
    }
}

fn settings(kind: Kind, rng: &mut Rng) -> PollerSettings {
    let real_lock = kind != Kind::Chaos || rng.u8(..3) > 0;
    let call_timeout = seconds(rng, 2..=12);
    let publish_timeout = seconds(rng, 2..=8);
    let claim_timeout = seconds(rng, 5..=30);
    let shortest = 3 * call_timeout
        .max(publish_timeout)
        .max(claim_timeout)
        .as_secs()
        + 3;
    let lock_expiry = if real_lock {
        600
    } else {
        rng.u64(shortest..=shortest + 120)
    };
    let max_in_flight = *rng.choice(&[1, 2, 3, 4, 8, 16, 32, 32]).unwrap();
    PollerSettings {
        fixed_delay: seconds(rng, 5..=20),
        max_in_flight,
        held_limit: max_in_flight + *rng.choice(&[0, 2, 8, 30, 256]).unwrap(),
        lock_expiry: Duration::from_secs(lock_expiry),
        call_timeout,
        publish_timeout,
        claim_timeout,
        brake_limit: rng.usize(1..=10),
        brake_window: seconds(rng, 60..=600),
        event_options: Vec::new(),
        grace_period: seconds(rng, 10..=30),
    }
}
