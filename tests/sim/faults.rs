//! What can go wrong with a call, how often, and when. The fate of each call is drawn here before it is sent.

use std::time::Duration;

use fastrand::Rng;
use probation_offender_events::ports::{CallError, CallErrorKind};

use crate::log::Endpoint;

/// The kinds of faults, as the table counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    ErrorBeforeEffect,
    AnswerLost,
    Slow,
    SlowBeyondTimeout,
    HangBeforeEffect,
    HangAfterEffect,
    Contended,
    ContendedWithRetryAfter,
    Unauthorised,
    Refused,
    EntryThrottled,
    EntryFailed,
    EntryRefused,
    GarbledAnswer,
    FalseNotFound,
    ShortAnswer,
    Outage,
    AuthOutage,
    BadOffender,
}

pub const FAULT_KINDS: [(FaultKind, &str); 19] = [
    (FaultKind::ErrorBeforeEffect, "error before the effect"),
    (FaultKind::AnswerLost, "error after the effect"),
    (FaultKind::Slow, "slow, within the timeout"),
    (FaultKind::SlowBeyondTimeout, "slow, beyond the timeout"),
    (FaultKind::HangBeforeEffect, "hang before the effect"),
    (FaultKind::HangAfterEffect, "hang after the effect"),
    (FaultKind::Contended, "409 or 429"),
    (FaultKind::ContendedWithRetryAfter, "429 with retry-after"),
    (FaultKind::Unauthorised, "unauthorised"),
    (FaultKind::Refused, "message refused, whole call"),
    (FaultKind::EntryThrottled, "batch entry throttled"),
    (FaultKind::EntryFailed, "batch entry failed"),
    (FaultKind::EntryRefused, "batch entry refused"),
    (FaultKind::GarbledAnswer, "claim answered with garbage"),
    (FaultKind::FalseNotFound, "false 404 of identifiers"),
    (FaultKind::ShortAnswer, "answer lacks an entry"),
    (FaultKind::Outage, "call during an outage"),
    (FaultKind::AuthOutage, "call during an auth outage"),
    (FaultKind::BadOffender, "call for a bad offender"),
];

#[derive(Clone, Debug)]
pub struct Fate {
    /// The delay before the effect.
    pub before: Duration,
    /// The delay after the effect.
    pub after: Duration,
    pub end: End,
    /// How the table counts it.
    pub kind: Option<FaultKind>,
}

/// How a call ends.
#[derive(Clone, Debug)]
pub enum End {
    Well,
    /// No effect.
    Fails(CallError),
    /// The effect takes place.
    LosesAnswer(CallError),
    /// No answer ever.
    Hangs {
        takes_effect: bool,
    },
    /// The row is locked, but the answer is not JSON.
    Garbled,
    /// The offender exists, but the answer is 404.
    NotFound,
    /// The events are accepted, but the answer lacks the last one.
    Short,
}

/// How often each call goes wrong, and in which ways.
#[derive(Clone, Debug)]
pub struct Rates {
    /// The share of calls that go wrong.
    pub share: f64,
    /// The ways that occur in this run; none if the list is empty.
    pub kinds: Vec<FaultKind>,
    /// The longest of the usual delays, in milliseconds.
    pub usual_milliseconds: u64,
}

/// The symptom of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    Fails,
    Hangs,
    Throttles,
    ThrottlesWithRetryAfter,
    /// Every call takes effect, but no answer arrives.
    LosesAnswers,
    /// Identifiers only: every offender is unknown.
    AnswersNotFound,
    Unauthorised,
}

#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub from: Duration,
    pub to: Duration,
    /// `None` means all of community-api, since there is no token.
    pub endpoint: Option<Endpoint>,
    pub symptom: Symptom,
}

impl Outage {
    pub fn hits(&self, now: Duration, endpoint: Endpoint) -> bool {
        let endpoint_hit = self
            .endpoint
            .map_or(endpoint != Endpoint::Publish, |hit| hit == endpoint);
        endpoint_hit && (self.from..self.to).contains(&now)
    }
}

impl Fate {
    /// A call without a fault, and with the usual delay.
    pub fn usual(rates: &Rates, rng: &mut Rng) -> Self {
        let mut delay = || Duration::from_millis(rng.u64(2..=rates.usual_milliseconds / 2));
        Self {
            before: delay(),
            after: delay(),
            end: End::Well,
            kind: None,
        }
    }

    /// Draws the fate of a call to an endpoint. The pod waits for `limit`.
    pub fn draw(rates: &Rates, endpoint: Endpoint, limit: Duration, rng: &mut Rng) -> Self {
        let mut fate = Self::usual(rates, rng);
        if rates.kinds.is_empty() || rng.f64() >= rates.share {
            return fate;
        }
        let kind = rates.kinds[rng.usize(..rates.kinds.len())];
        fate.kind = Some(kind);
        match kind {
            FaultKind::ErrorBeforeEffect => fate.end = End::Fails(CallError::unavailable("500")),
            FaultKind::AnswerLost => {
                fate.end = End::LosesAnswer(CallError::new(
                    CallErrorKind::AnswerLost,
                    "connection reset",
                ));
            }
            FaultKind::Slow | FaultKind::SlowBeyondTimeout => {
                let milliseconds = u64::try_from(limit.as_millis()).unwrap();
                let whole = if kind == FaultKind::Slow {
                    rng.u64(milliseconds / 10..milliseconds)
                } else {
                    rng.u64(milliseconds..=milliseconds * 2)
                };
                let before = rng.u64(0..=whole);
                fate.before = Duration::from_millis(before);
                fate.after = Duration::from_millis(whole - before);
            }
            FaultKind::HangBeforeEffect => {
                fate.end = End::Hangs {
                    takes_effect: false,
                }
            }
            FaultKind::HangAfterEffect => fate.end = End::Hangs { takes_effect: true },
            FaultKind::Contended => {
                fate.end = End::Fails(CallError::new(CallErrorKind::Contended, "409"));
            }
            FaultKind::ContendedWithRetryAfter => {
                fate.end = End::Fails(throttled_with_retry_after(rng));
            }
            FaultKind::Unauthorised => {
                fate.end = End::Fails(CallError::new(CallErrorKind::Unauthorised, "401"));
            }
            FaultKind::Refused if endpoint == Endpoint::Publish => {
                fate.end = End::Fails(CallError::new(CallErrorKind::Refused, "InvalidParameter"));
            }
            FaultKind::GarbledAnswer if endpoint == Endpoint::Next => fate.end = End::Garbled,
            FaultKind::FalseNotFound if endpoint == Endpoint::Identifiers => {
                fate.end = End::NotFound;
            }
            FaultKind::ShortAnswer if endpoint == Endpoint::Publish => fate.end = End::Short,
            // Those of single entries are drawn per entry. The others do not fit this endpoint.
            _ => fate.kind = None,
        }
        fate
    }

    /// The fate of a call during an outage.
    pub fn of_outage(outage: &Outage, rates: &Rates, rng: &mut Rng) -> Self {
        let mut fate = Self::usual(rates, rng);
        let kind = if outage.endpoint.is_none() {
            FaultKind::AuthOutage
        } else {
            FaultKind::Outage
        };
        fate.kind = Some(kind);
        fate.end = match outage.symptom {
            Symptom::Fails => End::Fails(CallError::unavailable("503")),
            Symptom::Hangs => End::Hangs {
                takes_effect: false,
            },
            Symptom::Throttles => End::Fails(CallError::new(CallErrorKind::Contended, "429")),
            Symptom::ThrottlesWithRetryAfter => End::Fails(throttled_with_retry_after(rng)),
            Symptom::LosesAnswers => End::LosesAnswer(CallError::new(
                CallErrorKind::AnswerLost,
                "connection reset",
            )),
            Symptom::AnswersNotFound => End::NotFound,
            Symptom::Unauthorised => {
                End::Fails(CallError::new(CallErrorKind::Unauthorised, "no token"))
            }
        };
        fate
    }
}

fn throttled_with_retry_after(rng: &mut Rng) -> CallError {
    CallError {
        kind: CallErrorKind::Contended,
        retry_after: Some(Duration::from_secs(rng.u64(1..=15))),
        cause: "429, retry-after".to_owned(),
    }
}

impl Rates {
    /// The fault of one entry of a batch, if it has one.
    pub fn entry(&self, rng: &mut Rng) -> Option<(FaultKind, CallErrorKind)> {
        const ENTRY_FAULTS: [(FaultKind, CallErrorKind); 3] = [
            (FaultKind::EntryThrottled, CallErrorKind::Contended),
            (FaultKind::EntryFailed, CallErrorKind::Unavailable),
            (FaultKind::EntryRefused, CallErrorKind::Refused),
        ];
        let (kind, error) = ENTRY_FAULTS[rng.usize(..ENTRY_FAULTS.len())];
        (self.kinds.contains(&kind) && rng.f64() < self.share).then_some((kind, error))
    }
}
