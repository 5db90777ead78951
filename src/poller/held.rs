//! The rows that this pod holds: which they are, which of them have a place, and what operators see of them.
//!
//! It owns the [`Places`]. It waits, counts and logs, but decides nothing. A [`HeldRow`] returns what it holds when it
//! is dropped, even in a panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::lease::Lease;
use super::places::{End, Places, Purpose, Standing};
use crate::episode::Episode;
use crate::metrics::Metrics;
use crate::offender_update::{ClaimedRow, OffenderDeltaId};
use crate::outcome::{Label, Reason, Step};
use crate::ports::CallError;

/// A task that waits for another row to end checks again after this time, so that every wait has a limit.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// Calls that fail for this long while no row is settled are worth a log line. A call that succeeds on its second
/// attempt is not.
const WORTH_A_LINE: Duration = Duration::from_secs(5);

/// The rows of a pod. Clones share their state.
#[derive(Clone, Debug)]
pub(super) struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    places: Places,
    last_number: u64,
    /// In the order of the claims.
    rows: BTreeMap<u64, Claimed>,
    /// Calls fail and no row is settled.
    outage: Episode,
}

#[derive(Debug)]
struct Claimed {
    row: Option<OffenderDeltaId>,
    lease: Lease,
    /// The age of the change, and when it had that age. `None` if the row was claimed before, since the age of a row
    /// that always fails says nothing about a backlog.
    age: Option<(Duration, Instant)>,
}

/// A place for a claim, and then for the row that the claim returns. Dropping it returns what it holds.
#[derive(Debug)]
pub(super) struct HeldRow {
    held: Held,
    /// None while the claim is under way.
    number: Option<u64>,
    standing: Standing,
    /// The step that fails, if the row is in trouble.
    failing: Option<Step>,
    end: End,
}

impl Held {
    pub fn new(places: Places, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                places,
                last_number: 0,
                rows: BTreeMap::new(),
                outage: Episode::default(),
            }),
            changed: Notify::new(),
            metrics,
        }))
    }

    /// Waits for a place to claim a row with.
    pub async fn place_for_claim(&self) -> HeldRow {
        self.wait_for_place(Purpose::Claim).await;
        HeldRow {
            held: self.clone(),
            number: None,
            standing: Standing::Running,
            failing: None,
            end: End::Left,
        }
    }

    /// The rows with the time until each comes back, in the order of their claims.
    pub fn rows(&self) -> Vec<(Option<OffenderDeltaId>, Duration)> {
        let now = Instant::now();
        let state = self.state();
        let rows = state.rows.values();
        rows.map(|claimed| (claimed.row, claimed.lease.comes_back_in(now)))
            .collect()
    }

    async fn wait_for_place(&self, purpose: Purpose) {
        loop {
            // Created before the question, so that no later change is missed.
            let changed = self.0.changed.notified();
            let Err(ask_again) = self.try_place(purpose) else {
                return;
            };
            let ask_again = ask_again.unwrap_or_else(|| Instant::now() + ASK_AGAIN);
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(ask_again) => {}
            }
        }
    }

    fn try_place(&self, purpose: Purpose) -> Result<(), Option<Instant>> {
        let mut state = self.state();
        state.places.want(purpose, Instant::now())?;
        self.show(&state);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Changes the state, updates the metrics, and wakes the tasks that wait for a place.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        self.show(&state);
        drop(state);
        self.0.changed.notify_waiters();
        result
    }

    fn show(&self, state: &State) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let metrics = &self.0.metrics;
        metrics.held.set(gauge(state.rows.len()));
        let oldest = state.rows.values().next();
        metrics
            .oldest_held
            .set(oldest.map(|claimed| claimed.lease.claimed_at()));
        // Rows come oldest first, so the first new one is the oldest.
        let oldest_new = state.rows.values().find_map(|claimed| claimed.age);
        metrics.oldest_new_row.set_age(oldest_new);
        metrics.places_lost.set(gauge(state.places.lost()));
    }
}

impl HeldRow {
    /// community-api has answered an identifiers call for the row that was sent at `asked`.
    pub fn answered(&self, asked: Instant) {
        self.held.state().places.answered(asked);
    }

    /// Whether the row must leave, if it keeps failing: [`Places::is_crowded_out`].
    pub fn is_crowded_out(&self, first_failure: Instant, started: Instant) -> bool {
        let state = self.held.state();
        state.places.is_crowded_out(first_failure, started)
    }

    pub fn hold(&mut self, row: &ClaimedRow, lease: Lease) {
        let claimed = Claimed {
            row: row.offender_delta_id(),
            lease,
            age: match row {
                ClaimedRow::Update(update) if !update.failed_update => {
                    let age = update.date_changed.age(Timestamp::now());
                    Some((age, Instant::now()))
                }
                _ => None,
            },
        };
        let came_back = row.failed_update();
        let number = self.held.change(|state| {
            state.places.hold(came_back);
            state.last_number += 1;
            state.rows.insert(state.last_number, claimed);
            state.last_number
        });
        self.number = Some(number);
    }

    /// Returns the place while the row waits for its turn.
    pub fn give_place_back(&mut self) {
        self.standing = Standing::Waiting;
        self.held.change(|state| state.places.give_back());
    }

    /// Waits for a place. The row's turn has come.
    pub async fn take_place(&mut self) {
        self.held.wait_for_place(Purpose::Turn).await;
        self.standing = Standing::Running;
    }

    /// Records a failed call for the row. With the first one, the row loses its place.
    pub fn call_failed(&mut self, step: Step, error: &CallError) {
        tracing::debug!(step = step.name(), cause = %error, "a call for a row failed");
        let now = Instant::now();
        let loses_place = self.standing == Standing::Running;
        let failed_before = self.failing.replace(step);
        self.standing = Standing::InTrouble;
        let rows_in_trouble = &self.held.0.metrics.rows_in_trouble;
        self.held.change(|state| {
            if loses_place {
                state.places.lose(now);
            }
            if let Some(step) = failed_before {
                rows_in_trouble.of(step).dec();
            }
            rows_in_trouble.of(step).inc();
            if let Some(lasted) = state.outage.failed(WORTH_A_LINE, now) {
                tracing::warn!(
                    step = step.name(),
                    cause = %error,
                    rows_in_trouble = state.places.in_trouble(),
                    failing_for_seconds = lasted.as_secs(),
                    asked_to_wait_seconds = error.retry_after.map(|wait| wait.as_secs()),
                    "calls for claimed rows are failing: the service retries them, and claims new rows more and more \
                     slowly until it settles one. Check the step and the cause"
                );
            }
        });
    }

    pub fn settle(mut self) {
        self.end = End::Settled;
    }
}

impl Drop for HeldRow {
    fn drop(&mut self) {
        let now = Instant::now();
        let row = self.held.change(|state| {
            let Some(number) = self.number else {
                state.places.give_back();
                return None;
            };
            state.places.end(self.standing, self.end);
            if let Some(step) = self.failing {
                self.held.0.metrics.rows_in_trouble.of(step).dec();
            }
            if self.end == End::Settled
                && let Some(lasted) = state.outage.succeeded(Duration::ZERO, now)
            {
                let failed_for_seconds = lasted.as_secs();
                tracing::info!(
                    failed_for_seconds,
                    "the service settles rows again: the outage is over"
                );
            }
            state.rows.remove(&number)
        });
        if std::thread::panicking()
            && let Some(Claimed { row, lease, .. }) = row
        {
            self.held.0.metrics.left_locked.of(Reason::Panicked).inc();
            // The log line before this one says where the code panicked, but not for which row.
            tracing::error!(
                offenderDeltaId = row.map(|row| row.0),
                comes_back_in_seconds = lease.comes_back_in(now).as_secs(),
                "the task for this row panicked: report this as a bug. If the row is not already deleted, it comes \
                 back when the lock expires"
            );
        }
    }
}
