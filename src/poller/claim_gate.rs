//! Trouble stops claiming: a claimed row that cannot be finished is hidden from every pod until its lock
//! runs out, so while no row gets through, none is claimed but one now and then to find out whether the
//! trouble is over.
//!
//! What counts as trouble is that *nobody* gets through a step. A row that fails while others, whose calls
//! were started later, succeed has a problem of its own: it neither suspends the claims nor keeps its place
//! in flight when places run short.

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, sleep_until};

use super::ports::{CallError, CallErrorKind};
use crate::offender_update::OffenderId;

/// While claims are suspended, one row is claimed after this time, to see whether it gets through.
const FIRST_PROBE: Duration = Duration::from_millis(250);
/// Each row that is caught in the trouble makes the time to the next probe longer by a seventh, up to this.
const LONGEST_PROBE: Duration = Duration::from_secs(2);
/// How long the first row after the trouble has, before another one may be claimed beside it.
const RESUME_PATIENCE: Duration = Duration::from_secs(2);
/// While places are needed, how often a row in trouble looks whether its own is.
const PLACE_CHECK: Duration = Duration::from_millis(250);

/// The calls that a claimed row has to get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The offender's identifiers.
    Identifiers,
    /// The events on the topic.
    Publish,
    /// A published row deleted.
    Delete,
    /// A row given up for good.
    MarkAsFailed,
}

/// The steps that can suspend the claims, with their names in metrics.
const SUSPENDING_STEPS: [(Step, &str); 3] = [
    (Step::Identifiers, "identifiers"),
    (Step::Publish, "publish"),
    (Step::Delete, "delete"),
];

const STEPS: usize = Step::MarkAsFailed as usize + 1;

/// Decides when rows may be claimed, from how the calls for claimed rows go.
#[derive(Debug)]
pub struct ClaimGate {
    state: Mutex<State>,
    changed: Notify,
    resumed: Notify,
    place_wanted: Notify,
    suspended: IntGauge,
    suspended_by: IntGaugeVec,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    steps: [StepHealth; STEPS],
    /// The claimers that wait for a place in flight and have not been promised one.
    places_wanted: Vec<u64>,
    last_wish: u64,
    /// When the latest claim that was answered was started: there was a token.
    claim_answered: Option<Instant>,
    /// Two offenders that were found lately: if one is found again, identifiers are well.
    known_offenders: [Option<OffenderId>; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct StepHealth {
    /// When the latest call that got through was **started**: one that was started before a failure, and
    /// answered after it, says nothing about the time of the failure.
    through_started: Option<Instant>,
    /// While nobody gets through: when the latest call that failed was started.
    failing: Option<Instant>,
    /// Whether that one failed for want of a token that is accepted.
    unauthorised: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Open,
    Suspended {
        since: Instant,
        next_probe: Instant,
        interval: Duration,
    },
    /// The trouble is over, it seems: one row first, then all.
    Resuming {
        claimed_at: Option<Instant>,
    },
}

impl ClaimGate {
    /// An open gate that shows its state on a gauge, and by step on the other one.
    #[must_use]
    pub fn new(suspended: IntGauge, suspended_by: IntGaugeVec) -> Self {
        let state = State {
            phase: Phase::Open,
            steps: [StepHealth::default(); STEPS],
            places_wanted: Vec::new(),
            last_wish: 0,
            claim_answered: None,
            known_offenders: [None; 2],
        };
        let gate = Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            resumed: Notify::new(),
            place_wanted: Notify::new(),
            suspended,
            suspended_by,
        };
        gate.show(&gate.state());
        gate
    }

    fn show(&self, state: &State) {
        let suspended = matches!(state.phase, Phase::Suspended { .. });
        self.suspended.set(i64::from(suspended));
        for (step, name) in SUSPENDING_STEPS {
            let by_this = suspended && state.steps[step as usize].failing.is_some();
            self.suspended_by
                .with_label_values(&[name])
                .set(i64::from(by_this));
        }
    }

    /// Waits until one row may be claimed. There is always a time at which it looks again, so that no claimer
    /// waits for ever.
    pub async fn may_claim(&self) {
        loop {
            // Before the look, so that no change after the look is missed.
            let changed = self.changed.notified();
            let Err(look_again) = self.state().permit(Instant::now()) else {
                return;
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(look_again) => {}
            }
        }
    }

    /// A permitted claim brought a row that has to wait for another one of the same offender: if it was to find out
    /// whether the trouble is over, it does not, and the next row may be claimed at once.
    pub fn claim_tells_nothing(&self) {
        if let Phase::Suspended { next_probe, .. } = &mut self.state().phase {
            *next_probe = Instant::now();
        }
        self.changed.notify_waiters();
    }

    /// A permitted claim found that there is nothing to do, while so many rows are in flight.
    pub fn claim_found_nothing(&self, rows_in_flight: usize) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Suspended { .. }) && rows_in_flight == 0 {
            // Nobody is held up, and nobody is there who could get through.
            state.steps.iter_mut().for_each(|step| step.failing = None);
            self.resume(&mut state);
        }
        drop(state);
        self.claim_failed();
    }

    /// A claim that was started at `started` was answered, with a row or without.
    pub fn claim_answered(&self, started: Instant) {
        let answered = &mut self.state().claim_answered;
        *answered = (*answered).max(Some(started));
    }

    /// A permitted claim brought no row.
    pub fn claim_failed(&self) {
        if let Phase::Resuming { claimed_at } = &mut self.state().phase {
            *claimed_at = None;
        }
        self.changed.notify_waiters();
    }

    /// A call for a claimed row, started at `started`, got through.
    pub fn got_through(&self, step: Step, started: Instant) {
        let mut state = self.state();
        let health = &mut state.steps[step as usize];
        health.through_started = health.through_started.max(Some(started));
        // One that was started before a failing one says nothing about the time since.
        health.failing = health.failing.filter(|&failing| failing >= started);
        let well = state.steps.iter().all(|step| step.failing.is_none());
        if matches!(state.phase, Phase::Suspended { .. }) {
            if well {
                self.resume(&mut state);
            } else {
                self.show(&state);
            }
        }
    }

    fn resume(&self, state: &mut State) {
        if let Phase::Suspended { since, .. } = state.phase {
            let suspended_seconds = since.elapsed().as_secs();
            tracing::info!(suspended_seconds, "claims resume with one row");
        }
        state.phase = Phase::Resuming { claimed_at: None };
        self.show(state);
        self.changed.notify_waiters();
        self.resumed.notify_waiters();
    }

    /// A call for a claimed row, started at `started`, failed; `first` is whether it is the first one that
    /// failed for this row. The answer is whether others get through meanwhile, so that the row has a problem
    /// of its own.
    pub fn failed(&self, step: Step, started: Instant, first: bool, error: &CallError) -> bool {
        // To give rows up is rare: nobody else is there to show whether it works, and nobody has to wait for it.
        if step == Step::MarkAsFailed {
            return true;
        }
        let mut state = self.state();
        if state.through_since(step, started) {
            return true;
        }
        let health = &mut state.steps[step as usize];
        if health.failing.is_none_or(|failing| failing <= started) {
            health.failing = Some(started);
            health.unauthorised = error.kind == CallErrorKind::Unauthorised;
        }
        let now = Instant::now();
        match &mut state.phase {
            Phase::Suspended {
                next_probe,
                interval,
                ..
            } => {
                if first {
                    *interval = (*interval * 8 / 7).min(LONGEST_PROBE);
                    *next_probe = now + *interval;
                }
            }
            Phase::Open | Phase::Resuming { .. } => {
                state.phase = Phase::Suspended {
                    since: now,
                    next_probe: now + FIRST_PROBE,
                    interval: FIRST_PROBE,
                };
                tracing::warn!(?step, cause = %error, "claims suspended: no row gets through");
                self.changed.notify_waiters();
            }
        }
        self.show(&state);
        false
    }

    /// Comes true when the trouble is over, if it is created before that: time to try again.
    pub fn resumed(&self) -> Notified<'_> {
        self.resumed.notified()
    }

    /// A claimed row is in flight until the answer is dropped, whatever becomes of it.
    #[must_use]
    pub fn row_in_flight(&self) -> RowInFlight<'_> {
        RowInFlight { gate: self }
    }

    /// Whether anybody got through the step with a call started after `since`.
    #[must_use]
    pub fn through_since(&self, step: Step, since: Instant) -> bool {
        self.state().through_since(step, since)
    }

    /// Whether claims have been suspended for so long, and this step is failing, perhaps for the rows in hand only. For want of a
    /// token everybody fails: then a claim has to have shown meanwhile that there is one.
    #[must_use]
    pub fn is_stuck(&self, step: Step, so_long: Duration) -> bool {
        let state = self.state();
        let health = state.steps[step as usize];
        let (Some(failing), Phase::Suspended { since, .. }) = (health.failing, state.phase) else {
            return false;
        };
        let had_a_token = state
            .claim_answered
            .is_some_and(|claim| claim >= since && claim <= failing);
        since.elapsed() >= so_long && (had_a_token || !health.unauthorised)
    }

    /// Remembers an offender that was found.
    pub fn remember_offender(&self, offender: OffenderId) {
        let known = &mut self.state().known_offenders;
        if known[0] != Some(offender) {
            *known = [Some(offender), known[0]];
        }
    }

    /// An offender other than this one that was found lately.
    #[must_use]
    pub fn known_offender_besides(&self, offender: OffenderId) -> Option<OffenderId> {
        let known = self.state().known_offenders;
        known.into_iter().flatten().find(|&known| known != offender)
    }

    /// Says that a claimer waits for a place in flight, until the answer is dropped.
    #[must_use]
    pub fn want_place(&self) -> PlaceWanted<'_> {
        let mut state = self.state();
        state.last_wish += 1;
        let wish = state.last_wish;
        state.places_wanted.push(wish);
        self.place_wanted.notify_waiters();
        PlaceWanted { gate: self, wish }
    }

    /// Waits until the place of a row in trouble is needed by others, and `may_go` says that the row may be
    /// left. Each wanted place is asked of one row only.
    pub async fn place_is_needed(&self, may_go: impl Fn() -> bool) {
        loop {
            // Before the look, so that no wish after the look is missed.
            let wish = self.place_wanted.notified();
            if self.state().places_wanted.is_empty() {
                wish.await;
            }
            sleep(PLACE_CHECK).await;
            if may_go() && self.state().places_wanted.pop().is_some() {
                return;
            }
        }
    }

    /// Waits until a call started at `started` has taken longer than `patience`, and one started that much later has got
    /// through before it: it hangs. A publish is only taken for hanging if its place is needed, since it may have taken
    /// place and would be a redelivery.
    pub async fn others_are_faster(&self, step: Step, started: Instant, patience: Duration) {
        sleep_until(started + patience).await;
        loop {
            sleep(PLACE_CHECK).await;
            let state = self.state();
            let faster = state.through_since(step, started + patience);
            if faster && (step != Step::Publish || !state.places_wanted.is_empty()) {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claimer's wish for a place in flight.
#[derive(Debug)]
pub struct PlaceWanted<'a> {
    gate: &'a ClaimGate,
    wish: u64,
}

impl Drop for PlaceWanted<'_> {
    fn drop(&mut self) {
        self.gate
            .state()
            .places_wanted
            .retain(|&wish| wish != self.wish);
    }
}

/// A claimed row, as the gate sees it. The first one to end after the trouble was over opens the gate for all.
#[derive(Debug)]
pub struct RowInFlight<'a> {
    gate: &'a ClaimGate,
}

impl Drop for RowInFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Phase::Resuming {
            claimed_at: Some(_),
        } = state.phase
        {
            state.phase = Phase::Open;
            self.gate.changed.notify_waiters();
        }
    }
}

impl State {
    /// A permission to claim one row, or when to look again.
    fn permit(&mut self, now: Instant) -> Result<(), Instant> {
        match &mut self.phase {
            Phase::Open => Ok(()),
            Phase::Suspended { next_probe, .. } if now < *next_probe => Err(*next_probe),
            Phase::Suspended {
                next_probe,
                interval,
                ..
            } => {
                *next_probe = now + *interval;
                Ok(())
            }
            Phase::Resuming { claimed_at } => match claimed_at {
                Some(at) if now < *at + RESUME_PATIENCE => Err(*at + RESUME_PATIENCE),
                _ => {
                    *claimed_at = Some(now);
                    Ok(())
                }
            },
        }
    }

    fn through_since(&self, step: Step, since: Instant) -> bool {
        let through = self.steps[step as usize].through_started;
        through.is_some_and(|started| started > since)
    }
}
