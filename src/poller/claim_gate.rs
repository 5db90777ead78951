//! Trouble stops claiming: a claimed row that cannot be finished is hidden from every pod until its lock runs out, so while no
//! row gets through, none is claimed but a few to find out whether the trouble is over.
//!
//! What counts as trouble is that *nobody* gets through a step. A row that fails while others succeed is its own problem:
//! it neither suspends the claims nor keeps its place in flight when places run short.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::ports::CallError;
use crate::offender_update::OffenderId;

/// While claims are suspended, one row is claimed after this time, to see whether it gets through.
const FIRST_PROBE: Duration = Duration::from_millis(250);
/// Each row that is caught in the trouble makes the time to the next probe longer by a third, up to this.
const LONGEST_PROBE: Duration = Duration::from_secs(30);
/// How often a row in trouble looks whether its place is needed.
const PLACE_CHECK: Duration = Duration::from_millis(250);

/// The calls that a claimed row has to get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The offender's identifiers.
    Identifiers,
    /// The events on the topic.
    Publish,
    /// The row deleted or marked as failed.
    Settle,
}

/// Decides when rows may be claimed, from how the calls for claimed rows go.
#[derive(Debug)]
pub struct ClaimGate {
    state: Mutex<State>,
    changed: Notify,
    suspended: IntGauge,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    steps: [StepHealth; 3],
    /// Claimers that wait for a place in flight and have not been promised one.
    places_wanted: usize,
    /// An offender that was found lately: if it is found again, identifiers are well.
    known_offender: Option<OffenderId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct StepHealth {
    last_through: Option<Instant>,
    failing: bool,
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
        claimed: bool,
    },
}

impl ClaimGate {
    /// An open gate that shows its state on a gauge.
    #[must_use]
    pub fn new(suspended: IntGauge) -> Self {
        let state = State {
            phase: Phase::Open,
            steps: [StepHealth::default(); 3],
            places_wanted: 0,
            known_offender: None,
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            suspended,
        }
    }

    /// Waits until one row may be claimed.
    pub async fn may_claim(&self) {
        loop {
            let changed = self.changed.notified();
            let probe_at = match self.state().permit(Instant::now()) {
                Permit::Now => return,
                Permit::At(instant) => Some(instant),
                Permit::OnChange => None,
            };
            match probe_at {
                Some(instant) => {
                    tokio::select! { biased; () = changed => {}, () = sleep_until(instant) => {} }
                }
                None => changed.await,
            }
        }
    }

    /// A permitted claim brought no row.
    pub fn claim_was_idle(&self) {
        if let Phase::Resuming { claimed } = &mut self.state().phase {
            *claimed = false;
        }
        self.changed.notify_waiters();
    }

    /// A call for a claimed row got through.
    pub fn got_through(&self, step: Step) {
        let mut state = self.state();
        let health = &mut state.steps[step as usize];
        health.last_through = Some(Instant::now());
        health.failing = false;
        if let Phase::Suspended { since, .. } = state.phase
            && !state.steps.iter().any(|step| step.failing)
        {
            state.phase = Phase::Resuming { claimed: false };
            self.suspended.set(0);
            tracing::info!(
                suspended_seconds = since.elapsed().as_secs(),
                "claims resume with one row"
            );
            self.changed.notify_waiters();
        }
    }

    /// A call for a claimed row, started at `started`, failed. `first` is whether it is the first one that failed for this
    /// row.
    pub fn failed(&self, step: Step, started: Instant, first: bool, error: &CallError) {
        let mut state = self.state();
        if state.through_since(step, started) {
            return;
        }
        state.steps[step as usize].failing = true;
        let now = Instant::now();
        match &mut state.phase {
            Phase::Suspended {
                next_probe,
                interval,
                ..
            } => {
                if first {
                    *interval = (*interval * 4 / 3).min(LONGEST_PROBE);
                    *next_probe = now + *interval;
                }
            }
            Phase::Open | Phase::Resuming { .. } => {
                state.phase = Phase::Suspended {
                    since: now,
                    next_probe: now + FIRST_PROBE,
                    interval: FIRST_PROBE,
                };
                self.suspended.set(1);
                tracing::warn!(?step, cause = %error, "claims suspended: no row gets through");
            }
        }
    }

    /// A claimed row is in flight until the answer is dropped, whatever becomes of it.
    #[must_use]
    pub fn row_in_flight(&self) -> RowInFlight<'_> {
        RowInFlight { gate: self }
    }

    /// Whether any row got through the step after `since`.
    #[must_use]
    pub fn through_since(&self, step: Step, since: Instant) -> bool {
        self.state().through_since(step, since)
    }

    /// Remembers an offender that was found.
    pub fn remember_offender(&self, offender: OffenderId) {
        self.state().known_offender = Some(offender);
    }

    /// An offender other than this one that was found lately.
    #[must_use]
    pub fn known_offender_besides(&self, offender: OffenderId) -> Option<OffenderId> {
        self.state()
            .known_offender
            .filter(|&known| known != offender)
    }

    /// Says that a claimer waits for a place in flight, until the answer is dropped.
    #[must_use]
    pub fn want_place(&self) -> PlaceWanted<'_> {
        self.state().places_wanted += 1;
        PlaceWanted { gate: self }
    }

    /// Waits until the place of a row in trouble is needed by others: somebody wants one, and since `since` somebody has got
    /// through the step in which this row is stuck. Each wanted place is asked of one row only.
    pub async fn place_is_needed(&self, step: Step, since: Instant) {
        loop {
            sleep(PLACE_CHECK).await;
            let mut state = self.state();
            if state.places_wanted > 0 && state.through_since(step, since) {
                state.places_wanted -= 1;
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
}

impl Drop for PlaceWanted<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.places_wanted = state.places_wanted.saturating_sub(1);
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
        if let Phase::Resuming { claimed: true } = state.phase {
            state.phase = Phase::Open;
            self.gate.changed.notify_waiters();
        }
    }
}

enum Permit {
    Now,
    At(Instant),
    OnChange,
}

impl State {
    fn permit(&mut self, now: Instant) -> Permit {
        match &mut self.phase {
            Phase::Open => Permit::Now,
            Phase::Suspended {
                next_probe,
                interval,
                ..
            } => {
                if now < *next_probe {
                    return Permit::At(*next_probe);
                }
                *next_probe = now + *interval;
                Permit::Now
            }
            Phase::Resuming { claimed: true } => Permit::OnChange,
            Phase::Resuming { claimed } => {
                *claimed = true;
                Permit::Now
            }
        }
    }

    fn through_since(&self, step: Step, since: Instant) -> bool {
        self.steps[step as usize]
            .last_through
            .is_some_and(|through| through > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::time::advance;

    fn gate() -> ClaimGate {
        ClaimGate::new(IntGauge::new("suspended", "help").unwrap())
    }

    fn open_now(gate: &ClaimGate) -> bool {
        gate.may_claim().now_or_never().is_some()
    }

    async fn fail(gate: &ClaimGate, step: Step, first: bool) {
        let started = Instant::now();
        advance(Duration::from_millis(10)).await;
        gate.failed(step, started, first, &CallError::unavailable("500"));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_stop_when_a_call_fails_and_resume_with_one_row_and_then_fully() {
        let gate = gate();
        assert!(open_now(&gate));
        fail(&gate, Step::Publish, true).await;
        assert!(!open_now(&gate));
        assert_eq!(gate.suspended.get(), 1);
        gate.got_through(Step::Identifiers);
        assert!(
            !open_now(&gate),
            "another step getting through says nothing about publishing"
        );
        gate.got_through(Step::Publish);
        assert!(open_now(&gate));
        assert!(!open_now(&gate), "one row first");
        drop(gate.row_in_flight());
        assert!(open_now(&gate) && open_now(&gate));
        assert_eq!(gate.suspended.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_fails_while_others_get_through_suspends_nothing() {
        let gate = gate();
        let started = Instant::now();
        advance(Duration::from_secs(5)).await;
        gate.got_through(Step::Identifiers);
        gate.failed(
            Step::Identifiers,
            started,
            true,
            &CallError::unavailable("500"),
        );
        assert!(open_now(&gate));
    }

    #[tokio::test(start_paused = true)]
    async fn probes_are_claimed_at_growing_intervals_up_to_a_limit() {
        let gate = gate();
        fail(&gate, Step::Publish, true).await;
        let mut waits = Vec::new();
        for _ in 0..40 {
            let asked = Instant::now();
            gate.may_claim().await;
            waits.push(asked.elapsed());
            fail(&gate, Step::Publish, true).await;
        }
        assert!(waits.is_sorted());
        assert!(
            waits[0] <= Duration::from_millis(251) && waits[39] <= Duration::from_millis(30_001),
            "{waits:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_claim_that_brought_no_row_is_given_back() {
        let gate = gate();
        fail(&gate, Step::Publish, true).await;
        gate.got_through(Step::Publish);
        assert!(open_now(&gate));
        gate.claim_was_idle();
        assert!(open_now(&gate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wanted_place_is_asked_of_one_row_in_trouble_and_only_if_others_get_through() {
        let gate = gate();
        let since = Instant::now();
        advance(Duration::from_secs(1)).await;
        let wanted = gate.want_place();
        let needed = tokio::time::timeout(
            Duration::from_secs(60),
            gate.place_is_needed(Step::Identifiers, since),
        );
        assert!(needed.await.is_err(), "nobody gets through");
        gate.got_through(Step::Identifiers);
        gate.place_is_needed(Step::Identifiers, since).await;
        let again = tokio::time::timeout(
            Duration::from_secs(60),
            gate.place_is_needed(Step::Identifiers, since),
        );
        assert!(again.await.is_err(), "one place was wanted");
        drop(wanted);
        assert_eq!(gate.state().places_wanted, 0);
    }
}
