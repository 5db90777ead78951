//! The poll loop: every interval a drain, which claims rows until there are none; each row is settled in a task of its own.
//!
//! Claims are serial, since community-api's optimistic lock makes concurrent ones collide; all the rest of a row's work is
//! not. See [`row`] for what is done with a row, and [`claim_gate`] for when rows are not claimed.

mod attempts;
pub mod backoff;
pub mod brake;
pub mod claim_gate;
pub mod heartbeat;
mod in_flight;
mod in_vain;
pub mod lease;
pub mod order;
pub mod outcome;
pub mod ports;
pub mod published;
pub mod row;
mod row_log;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backoff::Backoff;
use self::brake::{Brake, BrakeAnswer};
use self::claim_gate::ClaimGate;
use self::heartbeat::Heartbeat;
use self::in_flight::{InFlight, Place};
use self::in_vain::TriedInVain;
use self::lease::Lease;
use self::order::{Order, Turn};
use self::ports::{CallError, CallErrorKind, Topic, Updates};
use self::published::PublishedRows;
use self::row::RowInFlight;
use crate::insights::{Insights, Operation};
use crate::metrics::Metrics;
use crate::offender_update::ClaimedRow;

/// How many published rows whose DELETE has not succeeded are remembered; 100,000 of them take a few megabytes.
const PUBLISHED_ROWS_REMEMBERED: usize = 100_000;
/// So many rows in a row without even an id are no rows but a broken answer, and end the drain.
const NAMELESS_ROWS_IN_A_DRAIN: u32 = 10;
/// So many lost races for a lock in a row end the drain.
const LOST_RACES_IN_A_DRAIN: u32 = 20;
/// So long, a row's own calls let the next claim go first, which is what a drain waits for. Where all calls take equally long, they
/// would be answered in step with the claims, and answers that come together are worked off one by one: docs/performance.md.
const NEXT_CLAIM_FIRST: Duration = Duration::from_millis(1);
/// While polls go on failing, the log says so again after this time.
const FAILURE_REMINDER: Duration = Duration::from_mins(10);

/// What the poller is told by the configuration.
#[derive(Clone, Debug)]
pub struct PollerSettings {
    /// From the end of a drain to the next poll.
    pub fixed_delay: Duration,
    /// How many claims may be under way at once.
    pub claimers: usize,
    /// How many claimed rows may be unsettled at once.
    pub max_in_flight: usize,
    /// After which community-api serves a locked row again.
    pub lock_expiry: Duration,
    /// The longest that any call but a claim or a publish may take.
    pub call_timeout: Duration,
    /// The longest that a publish may take.
    pub publish_timeout: Duration,
    /// The longest that a claim may take; to give up on one strands the row that it may have locked.
    pub claim_timeout: Duration,
    /// How many rows may be marked as permanently failed within [`Self::brake_window`].
    pub brake_limit: usize,
    /// See [`Self::brake_limit`].
    pub brake_window: Duration,
    /// How long the rows in flight may take to be settled at shutdown.
    pub grace_period: Duration,
}

/// The poller of one pod.
#[derive(Debug)]
pub struct Poller<U, T> {
    shared: Arc<Shared<U, T>>,
    in_flight: InFlight,
    rows: TaskTracker,
    claims_under_way: AtomicUsize,
    heartbeat: Heartbeat,
    insights: Insights,
}

/// What the rows in flight have in common.
#[derive(Debug)]
pub(crate) struct Shared<U, T> {
    pub updates: U,
    pub topic: T,
    pub settings: PollerSettings,
    pub metrics: Arc<Metrics>,
    pub gate: ClaimGate,
    pub order: Order,
    pub published: PublishedRows,
    pub tried_in_vain: TriedInVain,
    pub brake: Mutex<Brake>,
}

/// How one claimer's part in a drain ended.
#[derive(Debug)]
enum DrainEnd {
    NothingLeft,
    Stopped,
    /// Others are busy with the same rows.
    Contended,
    Failed(CallError),
}

impl<U: Updates, T: Topic> Poller<U, T> {
    /// A poller that has not begun to poll.
    #[must_use]
    pub fn new(updates: U, topic: T, settings: PollerSettings, metrics: Arc<Metrics>) -> Self {
        // A claim is the longest time in which a healthy poll loop does not beat.
        let heartbeat = Heartbeat::new(settings.claim_timeout + Duration::from_secs(30));
        let shared = Shared {
            gate: ClaimGate::new(
                metrics.claims_suspended.clone(),
                metrics.claims_suspended_by.clone(),
            ),
            order: Order::default(),
            published: PublishedRows::with_capacity(PUBLISHED_ROWS_REMEMBERED),
            tried_in_vain: TriedInVain::default(),
            brake: Mutex::new(Brake::new(settings.brake_limit, settings.brake_window)),
            updates,
            topic,
            settings,
            metrics,
        };
        Self {
            in_flight: InFlight::new(
                shared.settings.max_in_flight,
                shared.metrics.in_flight.clone(),
                shared.metrics.oldest_in_flight.clone(),
                shared.metrics.left_locked.with_label_values(&["panicked"]),
            ),
            rows: TaskTracker::new(),
            claims_under_way: AtomicUsize::new(0),
            heartbeat,
            insights: Insights::off(),
            shared: Arc::new(shared),
        }
    }

    /// The same poller, which tells Application Insights.
    #[must_use]
    pub fn telling(self, insights: Insights) -> Self {
        Self { insights, ..self }
    }

    /// The sign of life that liveness follows.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Polls until told to stop, then lets the rows in flight be settled for as long as the grace period allows, and says
    /// what is still held after it.
    pub async fn run(&self, stop: &CancellationToken) {
        let all_settled = async {
            self.poll(stop).await;
            if !self.rows.is_empty() {
                tracing::info!(
                    rows = self.rows.len(),
                    "no more claims; settling the rows in flight"
                );
            }
            self.rows.close();
            self.heartbeat.beat_while(self.rows.wait()).await;
        };
        let out_of_time = async {
            stop.cancelled().await;
            sleep(self.shared.settings.grace_period).await;
        };
        tokio::select! {
            biased;
            () = all_settled => {}
            () = out_of_time => self.say_what_is_held(),
        }
    }

    async fn poll(&self, stop: &CancellationToken) {
        let mut failures = FailureLog::default();
        // Pods that are started together poll at once, and from then on each in a phase of its own.
        let mut delay = self.shared.settings.fixed_delay.mul_f64(fastrand::f64());
        while !stop.is_cancelled() {
            let metrics = &self.shared.metrics;
            metrics.polls.inc();
            let read_before = metrics.read.get();
            let ends = join_all((0..self.shared.settings.claimers).map(|_| self.drain(stop))).await;
            if let Some(result) = result_of_poll(&ends, metrics.read.get() > read_before) {
                metrics.poll_results.with_label_values(&[result]).inc();
            }
            let asked_to_wait = failures.note(ends);
            delay = delay.max(asked_to_wait);
            self.shared.show_brake();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.heartbeat.beat_while(sleep(delay)) => {}
            }
            delay = self.shared.settings.fixed_delay;
        }
    }

    /// Claims rows one after the other until there are none.
    async fn drain(&self, stop: &CancellationToken) -> DrainEnd {
        let mut lost_races = 0;
        let mut backoff = backoff_after_lost_race();
        let mut nameless_rows = 0;
        loop {
            let place = tokio::select! {
                biased;
                () = stop.cancelled() => return DrainEnd::Stopped,
                place = self.heartbeat.beat_while(self.permission_to_claim()) => place,
            };
            self.heartbeat.beat();
            let claimed_at = Instant::now();
            // Never dropped for the sake of a stop: the row that it locks would be stranded.
            self.claims_under_way.fetch_add(1, Ordering::Relaxed);
            let operation = self.insights.operation();
            let claimed = timeout(
                self.shared.settings.claim_timeout,
                operation.clone().scope(self.shared.updates.next()),
            )
            .await;
            self.claims_under_way.fetch_sub(1, Ordering::Relaxed);
            let claimed =
                claimed.unwrap_or_else(|_| Err(CallError::unavailable("a claim took too long")));
            let answered = match &claimed {
                Ok(_) => true,
                Err(error) => error.kind == CallErrorKind::Contended,
            };
            if answered {
                let now = Some(Instant::now());
                self.shared.metrics.since_claim_answered.set(now);
                self.shared.gate.claim_answered(claimed_at);
            }
            let error = match claimed {
                Ok(Some(row)) => {
                    (lost_races, backoff) = (0, backoff_after_lost_race());
                    nameless_rows = if row.offender_delta_id().is_none() {
                        nameless_rows + 1
                    } else {
                        0
                    };
                    self.start(row, claimed_at, place, operation);
                    if nameless_rows < NAMELESS_ROWS_IN_A_DRAIN {
                        continue;
                    }
                    let cause = "one unreadable row after the other, without even an id";
                    return DrainEnd::Failed(CallError::unavailable(cause));
                }
                Ok(None) => {
                    self.shared
                        .gate
                        .claim_found_nothing(self.in_flight.held().len());
                    return DrainEnd::NothingLeft;
                }
                Err(error) => error,
            };
            self.shared.gate.claim_failed();
            lost_races += 1;
            match error.kind {
                CallErrorKind::Contended if lost_races <= LOST_RACES_IN_A_DRAIN => {}
                CallErrorKind::Contended => return DrainEnd::Contended,
                _ => return DrainEnd::Failed(error),
            }
            drop(place);
            tokio::select! {
                biased;
                () = stop.cancelled() => return DrainEnd::Stopped,
                () = self.heartbeat.beat_while(sleep(backoff.wait(error.retry_after))) => {}
            }
        }
    }

    /// Waits for a place in flight, and for the gate.
    async fn permission_to_claim(&self) -> Place {
        let place = if let Some(place) = self.in_flight.try_take() {
            place
        } else {
            let _wanted = self.shared.gate.want_place();
            self.in_flight.take().await
        };
        self.shared.gate.may_claim().await;
        place
    }

    fn start(&self, row: ClaimedRow, claimed_at: Instant, mut place: Place, operation: Operation) {
        self.shared.metrics.read.inc();
        // The brake comes off by itself, and a drain may be long.
        self.shared.show_brake();
        let lease = Lease::from_claim(claimed_at, self.shared.settings.lock_expiry);
        let offender = match &row {
            ClaimedRow::Update(update) => Some(update.offender_id),
            // It will never be published, so that it needs no turn.
            ClaimedRow::Unreadable(_) => None,
        };
        place.holds(row.offender_delta_id(), lease);
        // Joined here and not in the task, so that the order is the order of the claims.
        let turn = offender.map(|offender| self.shared.order.join(offender));
        if turn.as_ref().is_some_and(Turn::is_behind_another) {
            self.shared.gate.claim_tells_nothing();
        }
        let in_flight = RowInFlight {
            shared: self.shared.clone(),
            lease,
            offender,
        };
        self.rows.spawn(async move {
            // Both are dropped in any case, also when the row's task panics.
            let shared = in_flight.shared.clone();
            let _ended = shared.gate.row_in_flight();
            let _place = place;
            sleep(NEXT_CLAIM_FIRST).await;
            operation.scope(in_flight.settle(row, turn)).await;
        });
    }

    fn say_what_is_held(&self) {
        if self.claims_under_way.load(Ordering::Relaxed) > 0 {
            tracing::warn!(
                "a claim was still under way, and may have locked a row that comes back when the lock runs out"
            );
        }
        for (row, comes_back_in) in self.in_flight.held() {
            tracing::warn!(
                offenderDeltaId = row.map(|row| row.0),
                comes_back_in_seconds = comes_back_in.as_secs(),
                "row still locked by this pod, which stops now; it comes back when the lock runs out"
            );
        }
    }
}

/// How a poll ended, as its metric names it; `None` if it was only told to stop.
fn result_of_poll(ends: &[DrainEnd], found: bool) -> Option<&'static str> {
    let failed = ends.iter().find_map(|end| match end {
        DrainEnd::Failed(error) => Some(error.kind),
        _ => None,
    });
    match failed {
        Some(CallErrorKind::Unauthorised) => Some("unauthorised"),
        Some(_) => Some("failed"),
        None if found => Some("found"),
        None if ends.iter().any(|end| matches!(end, DrainEnd::Contended)) => Some("contended"),
        None if ends.iter().all(|end| matches!(end, DrainEnd::Stopped)) => None,
        None => Some("empty"),
    }
}

fn backoff_after_lost_race() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

impl<U, T> Shared<U, T> {
    /// Whether one more row may be given up for good at this time.
    pub fn ask_brake(&self, now: Instant) -> bool {
        let answer = self.brake().ask(now);
        if answer == BrakeAnswer::Engaged {
            tracing::error!(
                limit = self.settings.brake_limit,
                window_seconds = self.settings.brake_window.as_secs(),
                "too many rows would be marked as permanently failed: none will be until the window has passed"
            );
        }
        self.show_brake();
        answer == BrakeAnswer::Allowed
    }

    /// A row that was allowed to be given up was not after all.
    pub fn give_back_brake(&self, allowed_at: Instant) {
        self.brake().give_back(allowed_at);
        self.show_brake();
    }

    fn show_brake(&self) {
        let on = self.brake().is_on(Instant::now());
        self.metrics.brake_on.set(i64::from(on));
    }

    fn brake(&self) -> MutexGuard<'_, Brake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the first of a series of failed polls, a reminder now and then, and the recovery.
#[derive(Debug, Default)]
struct FailureLog {
    /// When the series began, and when it was last mentioned.
    failing: Option<(Instant, Instant)>,
}

impl FailureLog {
    /// Notes how a drain ended, and answers how long to wait because the other side asked for it.
    fn note(&mut self, ends: Vec<DrainEnd>) -> Duration {
        let mut succeeded = false;
        for end in ends {
            match end {
                DrainEnd::Failed(error) => {
                    self.failed(&error);
                    return error.retry_after.unwrap_or_default();
                }
                DrainEnd::NothingLeft | DrainEnd::Contended => succeeded = true,
                DrainEnd::Stopped => {}
            }
        }
        if succeeded && let Some((since, _)) = self.failing.take() {
            let failed_for_seconds = since.elapsed().as_secs();
            tracing::info!(failed_for_seconds, "polls succeed again");
        }
        Duration::ZERO
    }

    fn failed(&mut self, error: &CallError) {
        let now = Instant::now();
        let since = match self.failing {
            Some((_, mentioned)) if now.duration_since(mentioned) < FAILURE_REMINDER => {
                tracing::debug!(cause = %error, "poll failed");
                return;
            }
            Some((since, _)) => since,
            None => now,
        };
        let failing_for_seconds = now.duration_since(since).as_secs();
        tracing::error!(cause = %error, failing_for_seconds, "poll failed; nothing is claimed until one succeeds");
        self.failing = Some((since, now));
    }
}
