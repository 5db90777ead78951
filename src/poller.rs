//! The poll loop. Each poll is a drain, which claims rows until there are none left. Each row is settled in a separate
//! task.
//!
//! Claims are serial, since concurrent ones collide in community-api's optimistic lock. The rest of the work on rows is
//! concurrent. `row` works on a claimed row. [`places`] and [`retry`] decide what happens when calls fail.

pub mod batch;
pub mod brake;
mod claims;
mod held;
pub mod lanes;
pub mod lease;
pub mod places;
pub mod published;
mod quiet_polls;
pub mod retry;
mod row;
mod row_log;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Once};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::brake::{Brake, BrakeAnswer};
use self::claims::Claims;
use self::held::{Held, HeldRow};
use self::lanes::Lanes;
use self::lease::Lease;
use self::places::Places;
use self::published::PublishedRows;
use self::row::Row;
use crate::config::{CLAIM_TIMEOUT, PollerSettings};
use crate::event::similar_table;
use crate::heartbeat::Heartbeat;
use crate::insights::{Insights, Operation};
use crate::metrics::Metrics;
use crate::offender_update::{ChangeId, ClaimedRow};
use crate::outcome::PollResult;
use crate::ports::{CallError, CallErrorKind, Topic, Updates, within};

/// Consecutive rows without an id that end the drain: the responses are broken.
const NAMELESS_ROWS_IN_A_DRAIN: u32 = 10;
/// How many consecutive lost races for a lock a drain tolerates. The next one ends it. community-api itself loses ten
/// races before it answers 409.
const LOST_RACES_IN_A_DRAIN: u32 = 20;
/// The average wait before the same poll claims again, after a lost race or a first failed claim. So a closed
/// connection does not delay claims by a whole poll interval.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// If the first claim to fail does so within this time, the same poll claims once more. After a slower failure the poll
/// ends, so that it adds no load.
const QUICK_FAILURE: Duration = Duration::from_secs(2);
/// How long a new row waits before its own calls, so that the pod sends the next claim first. Claims are serial, so
/// they set the speed of a drain. Without this wait, if all calls take equally long, community-api answers them in step
/// with the claims, one by one (docs/performance.md).
const NEXT_CLAIM_FIRST: Duration = Duration::from_millis(1);
/// How many ids of held rows the log shows when the pod stops.
const IDS_SHOWN: usize = 20;

/// The poller of one pod, over its two ports.
#[derive(Debug)]
pub struct Poller<U, T> {
    pod: Arc<Pod<U, T>>,
    held: Held,
    lanes: Lanes,
    rows: TaskTracker,
    claims: Mutex<Claims>,
    heartbeat: Heartbeat,
    insights: Insights,
}

/// What all rows of a pod share.
#[derive(Debug)]
struct Pod<U, T> {
    updates: U,
    topic: T,
    settings: PollerSettings,
    metrics: Arc<Metrics>,
    published: Mutex<PublishedRows>,
    brake: Mutex<Brake>,
    similar_table_logged: Once,
    stopping: CancellationToken,
}

/// How a drain ended.
#[derive(Debug)]
enum DrainEnd {
    NothingLeft,
    Stopped,
    /// Other callers lock the same rows.
    Contended,
    Failed(CallError),
}

impl<U: Updates, T: Topic> Poller<U, T> {
    /// The poller starts when [`Self::run`] is called.
    pub fn new(updates: U, topic: T, settings: PollerSettings, metrics: Arc<Metrics>) -> Self {
        // A claim is the longest time that a healthy poll loop goes without a heartbeat.
        let heartbeat = Heartbeat::new(settings.claim_timeout + Duration::from_secs(30));
        let longest_interval = settings.lock_expiry / retry::LONGEST_WAIT_DIVISOR;
        let places = Places::new(
            settings.max_in_flight,
            settings.held_limit,
            longest_interval,
            Instant::now(),
        );
        Self {
            held: Held::new(places, metrics.clone()),
            lanes: Lanes::default(),
            rows: TaskTracker::new(),
            claims: Mutex::default(),
            heartbeat,
            insights: Insights::default(),
            pod: Arc::new(Pod {
                published: Mutex::new(PublishedRows::with_capacity(published::CAPACITY)),
                brake: Mutex::new(Brake::new(settings.brake_limit, settings.brake_window)),
                similar_table_logged: Once::new(),
                stopping: CancellationToken::new(),
                updates,
                topic,
                settings,
                metrics,
            }),
        }
    }

    /// Makes the poller send operations to Application Insights.
    #[must_use]
    pub fn reporting_to(self, insights: Insights) -> Self {
        Self { insights, ..self }
    }

    /// The heartbeat that the liveness probe checks.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Polls until `stop`. Then it settles the held rows within the grace period, and logs those that are still held.
    pub async fn run(&self, stop: &CancellationToken) {
        let all_settled = async {
            self.poll(stop).await;
            self.pod.stopping.cancel();
            if !self.rows.is_empty() {
                let rows = self.rows.len();
                tracing::info!(
                    rows,
                    "stopping: the service claims no more rows, and settles those it holds"
                );
            }
            self.rows.close();
            self.heartbeat.beat_while(self.rows.wait()).await;
        };
        let out_of_time = async {
            stop.cancelled().await;
            self.pod.stopping.cancel();
            sleep(self.pod.settings.grace_period).await;
        };
        tokio::select! {
            biased;
            () = all_settled => {}
            () = out_of_time => self.log_what_is_held(),
        }
    }

    async fn poll(&self, stop: &CancellationToken) {
        let Pod {
            settings, metrics, ..
        } = &*self.pod;
        // The first poll is immediate on every pod. The wait after it is random, so that pods that start together do
        // not poll in step.
        let mut delay = settings.fixed_delay.mul_f64(fastrand::f64());
        while !stop.is_cancelled() {
            metrics.polls.inc();
            let read_before = metrics.read.get();
            let end = self.drain(stop).await;
            if let Some(result) = end.result(metrics.read.get() > read_before) {
                metrics.poll_results.of(result).inc();
                self.claims.lock().poll_ended(result);
            }
            if let DrainEnd::Failed(error) = &end {
                self.claims.lock().poll_failed(error);
                delay = delay.max(error.retry_after.unwrap_or_default());
            }
            self.pod.show_brake();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.heartbeat.beat_while(sleep(delay)) => {}
            }
            delay = settings.fixed_delay;
        }
    }

    async fn drain(&self, stop: &CancellationToken) -> DrainEnd {
        let (mut lost_races, mut failures, mut nameless_rows) = (0, 0, 0);
        loop {
            let place = tokio::select! {
                biased;
                () = stop.cancelled() => return DrainEnd::Stopped,
                place = self.heartbeat.beat_while(self.held.place_for_claim()) => place,
            };
            let operation = self.insights.operation();
            let lease = Lease::from_claim(Instant::now(), self.pod.settings.lock_expiry);
            let error = match operation.clone().scope(self.claim(lease)).await {
                Ok(Some(row)) => {
                    (lost_races, failures) = (0, 0);
                    let is_nameless = row.offender_delta_id().is_none();
                    nameless_rows = if is_nameless { nameless_rows + 1 } else { 0 };
                    self.start(row, lease, place, operation);
                    if nameless_rows < NAMELESS_ROWS_IN_A_DRAIN {
                        continue;
                    }
                    let cause = "consecutive rows are unreadable and have no id, so the responses are broken";
                    return DrainEnd::Failed(CallError::unavailable(cause));
                }
                Ok(None) => return DrainEnd::NothingLeft,
                Err(error) => error,
            };
            if error.retry_after.is_some() {
                return DrainEnd::Failed(error);
            }
            if error.kind == CallErrorKind::Contended {
                lost_races += 1;
                if lost_races > LOST_RACES_IN_A_DRAIN {
                    return DrainEnd::Contended;
                }
            } else {
                failures += 1;
                let took = lease.claimed_at().elapsed();
                if failures > 1 || took > QUICK_FAILURE {
                    return DrainEnd::Failed(error);
                }
                tracing::debug!(cause = %error, "a claim failed: the service claims once more");
            }
            drop(place);
            let pause = CLAIM_AGAIN.min(self.pod.settings.fixed_delay);
            let pause = pause.mul_f64(0.5 + fastrand::f64());
            tokio::select! {
                biased;
                () = stop.cancelled() => return DrainEnd::Stopped,
                () = self.heartbeat.beat_while(sleep(pause)) => {}
            }
        }
    }

    /// Claims a row, which gets this lease. A stopping pod waits for the claim until the grace period ends: if it
    /// dropped the call, the row that the call may lock would come back only when the lock expires.
    async fn claim(&self, lease: Lease) -> Result<Option<ClaimedRow>, CallError> {
        self.heartbeat.beat();
        let Pod {
            settings,
            metrics,
            updates,
            ..
        } = &*self.pod;
        self.claims.lock().sent(lease);
        let claimed = within(settings.claim_timeout, CLAIM_TIMEOUT, updates.next()).await;
        let mut claims = self.claims.lock();
        claims.ended();
        let result = match &claimed {
            Ok(Some(_)) => PollResult::Found,
            Ok(None) => PollResult::Empty,
            Err(error) => result_of_failure(error.kind),
        };
        *metrics.last_claim.lock() = Some((result, Instant::now()));
        let failed = claimed.as_ref().err().map(|error| error.kind);
        match failed {
            Some(CallErrorKind::AnswerLost) => {
                metrics.claims_without_answer.inc();
                claims.lost(lease);
            }
            None | Some(CallErrorKind::Contended) => {
                let now = Instant::now();
                metrics.since_claim_answered.set(Some(now));
                claims.answered(now);
            }
            Some(_) => {}
        }
        claimed
    }

    fn start(&self, row: ClaimedRow, lease: Lease, mut held: HeldRow, operation: Operation) {
        let pod = self.pod.clone();
        pod.metrics.read.inc();
        // The brake may release during a long drain, so its metric is updated for each row.
        pod.show_brake();
        pod.log_similar_table(&row);
        let change = row.change_id();
        let is_published = pod.has_published(change, lease);
        // Joined here and not in the task, so that rows keep the order of their claims. A row that will not be
        // published needs no turn.
        let lane = match &row {
            ClaimedRow::Update(update) if !is_published => {
                Some(self.lanes.join(update.offender_id))
            }
            _ => None,
        };
        held.hold(&row, lease);
        let row = Row {
            held,
            pod,
            claimed: row,
            change,
            lease,
            lane,
            cause: None,
        };
        self.rows.spawn(async move {
            sleep(NEXT_CLAIM_FIRST).await;
            operation.scope(row.work()).await;
        });
    }

    fn log_what_is_held(&self) {
        self.claims.lock().stopped();
        let held = self.held.rows();
        let Some(last) = held.iter().map(|(_, comes_back_in)| *comes_back_in).max() else {
            return;
        };
        let ids: Vec<_> = held
            .iter()
            .filter_map(|(row, _)| *row)
            .map(|row| row.0)
            .collect();
        tracing::warn!(
            rows = held.len(),
            first_offender_delta_ids = ?&ids[..ids.len().min(IDS_SHOWN)],
            all_come_back_within_seconds = last.as_secs(),
            "the pod stops with rows that it could not settle. They come back when their locks expire. \
             You need not do anything"
        );
    }
}

impl DrainEnd {
    /// The result of the poll. `None` if it ended only because the pod stops.
    fn result(&self, has_found: bool) -> Option<PollResult> {
        match self {
            Self::Failed(error) => Some(result_of_failure(error.kind)),
            _ if has_found => Some(PollResult::Found),
            Self::Contended => Some(PollResult::Contended),
            Self::NothingLeft => Some(PollResult::Empty),
            Self::Stopped => None,
        }
    }
}

fn result_of_failure(kind: CallErrorKind) -> PollResult {
    match kind {
        CallErrorKind::Contended => PollResult::Contended,
        CallErrorKind::NoToken => PollResult::NoToken,
        CallErrorKind::TokenRefused | CallErrorKind::Unauthorised => PollResult::Unauthorised,
        _ => PollResult::Failed,
    }
}

impl<U, T> Pod<U, T> {
    /// Whether this pod has published the change of a row with this lease.
    fn has_published(&self, change: Option<ChangeId>, lease: Lease) -> bool {
        let published = self.published.lock();
        change.is_some_and(|change| published.contains(change, lease.claimed_at()))
    }

    /// Whether one more row may be marked as permanently failed. Logs when the brake starts.
    fn may_mark_a_row(&self, now: Instant) -> bool {
        let answer = self.brake.lock().ask(now);
        if answer == BrakeAnswer::Engaged {
            tracing::error!(
                limit = self.settings.brake_limit,
                window_seconds = self.settings.brake_window.as_secs(),
                "the brake is on: this pod has reached the limit of rows that it may mark as permanently failed. \
                 For window_seconds, it leaves such rows locked instead. Check the answers from community-api and SNS"
            );
        }
        self.show_brake();
        answer == BrakeAnswer::Allowed
    }

    /// Logs once that a table has nearly the name of a known one, since its subscribers then get no event.
    fn log_similar_table(&self, row: &ClaimedRow) {
        let ClaimedRow::Update(update) = row else {
            return;
        };
        if let Some(similar_to) = similar_table(&update.source_table) {
            self.similar_table_logged.call_once(|| {
                tracing::warn!(
                    offenderDeltaId = update.offender_delta_id.0,
                    similar_to,
                    "a sourceTable differs from a known table only in case or spaces, so the service publishes its \
                     events with another type. Ask the Delius team about the name. The service logs this once"
                );
            });
        }
    }

    fn show_brake(&self) {
        let on = self.brake.lock().is_on(Instant::now());
        self.metrics.brake_on.set(i64::from(on));
    }
}
