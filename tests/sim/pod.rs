//! One process: how its poller calls the world, and what can happen to the process as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use probation_offender_events::event::{Event, Identifiers};
use probation_offender_events::metrics::Metrics;
use probation_offender_events::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};
use probation_offender_events::outcome::{Label, Reason, RedeliveryCause};
use probation_offender_events::poller::Poller;
use probation_offender_events::ports::{CallError, CallErrorKind, Topic, Updates};
use sandbox::delius::{Attempt, Claim};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::faults::End;
use crate::log::{Answer, Call, EventOf, What};
use crate::planted::{Bug, Planted};
use crate::world::World;

pub struct Process {
    number: usize,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    /// SIGTERM.
    stop: CancellationToken,
    /// From then on it does nothing.
    killed: CancellationToken,
    /// How many more steps its calls make before it is killed, once that is drawn.
    steps_to_live: AtomicU64,
    ended: AtomicBool,
    most_held: AtomicI64,
    trouble_seen: AtomicBool,
    brake_seen: AtomicBool,
}

impl Process {
    /// Starts a process with a new poller.
    pub fn start(number: usize, world: &Arc<World>, bug: Option<Bug>) -> Arc<Self> {
        let process = Arc::new(Self {
            number,
            world: world.clone(),
            metrics: Arc::new(Metrics::new().unwrap()),
            stop: CancellationToken::new(),
            killed: CancellationToken::new(),
            steps_to_live: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            most_held: AtomicI64::new(0),
            trouble_seen: AtomicBool::new(false),
            brake_seen: AtomicBool::new(false),
        });
        world.note(number, What::PodStarted);
        let handle = || Planted::new(Pod(process.clone()), bug);
        let mut settings = world.plan.settings.clone();
        if bug == Some(Bug::PublishAfterTheLease) {
            settings.lock_expiry *= 2;
        }
        let (updates, topic) = Planted::pair(handle());
        let poller = Poller::new(updates, topic, settings, process.metrics.clone());
        tokio::spawn(process.clone().live(poller));
        process
    }

    async fn live<U: Updates, T: Topic>(self: Arc<Self>, poller: Poller<U, T>) {
        tokio::select! {
            biased;
            () = self.killed.cancelled() => self.world.note(self.number, What::PodKilled),
            () = poller.run(&self.stop) => self.world.note(self.number, What::PodStopped),
        }
        self.look_at_metrics();
        let counted = What::Counted {
            redelivered: self.redelivered(),
            brake_seen: self.brake_seen.load(Ordering::Relaxed),
            trouble_seen: self.trouble_seen.load(Ordering::Relaxed),
            most_held: self.most_held.load(Ordering::Relaxed),
            panicked: self.metrics.left_locked.of(Reason::Panicked).get(),
        };
        self.world.note(self.number, counted);
        self.killed.cancel();
        self.ended.store(true, Ordering::Relaxed);
    }

    fn redelivered(&self) -> Vec<(&'static str, u64)> {
        let counter = &self.metrics.redelivered;
        RedeliveryCause::ALL
            .iter()
            .map(|&cause| (cause.name(), counter.of(cause).get()))
            .collect()
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether it has been decided that the process ends.
    pub fn is_ending(&self) -> bool {
        self.stop.is_cancelled()
            || self.killed.is_cancelled()
            || self.steps_to_live.load(Ordering::Relaxed) < u64::MAX
    }

    pub fn sigterm(&self) {
        self.world.note(self.number, What::StopAsked);
        self.stop.cancel();
    }

    /// Kills the process after this many more steps of its calls.
    pub fn kill_after(&self, steps: u64) {
        if steps == 0 {
            self.killed.cancel();
        }
        self.steps_to_live.store(steps, Ordering::Relaxed);
    }

    fn look_at_metrics(&self) {
        let held = self.metrics.held.get();
        self.most_held.fetch_max(held, Ordering::Relaxed);
        if self.metrics.places_lost.get() > 0 {
            self.trouble_seen.store(true, Ordering::Relaxed);
        }
        if self.metrics.brake_on.get() > 0 {
            self.brake_seen.store(true, Ordering::Relaxed);
        }
    }

    /// A point at which the process may be killed. The call then never returns.
    async fn step(&self) {
        self.look_at_metrics();
        let left = self.steps_to_live.load(Ordering::Relaxed);
        if left < u64::MAX {
            self.steps_to_live
                .store(left.saturating_sub(1), Ordering::Relaxed);
            if left <= 1 {
                self.killed.cancel();
            }
        }
        if self.killed.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

/// The production poller's world: both of its traits.
#[derive(Clone)]
pub struct Pod(pub Arc<Process>);

impl Pod {
    /// Whether identifiers would find the offender now. It makes no call.
    pub fn finds(&self, offender: OffenderId) -> bool {
        self.0.world.identifiers(offender.0).is_some()
    }
}

/// Records that the pod stopped waiting for a call, unless it was answered.
struct Pending<'a> {
    process: &'a Process,
    call: u64,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // The calls of a killed process end because the process does.
        if !self.process.killed.is_cancelled() {
            self.process
                .world
                .note(self.process.number, What::TimedOut(self.call));
        }
    }
}

impl Pod {
    /// Sends a call. Its effect takes place even if the pod stops waiting for the answer.
    async fn call<R, E>(
        &self,
        call: Call,
        effect: impl FnOnce(Arc<World>, u64, bool) -> E + Send + 'static,
        as_answer: impl Fn(&R) -> Answer,
    ) -> Result<R, CallError>
    where
        R: Send + 'static,
        E: Future<Output = Result<R, CallError>> + Send,
    {
        let process = &*self.0;
        process.step().await;
        let (number, fate) = process.world.begin(process.number, &call);
        let pending = Pending {
            process,
            call: number,
        };
        let (sender, receiver) = oneshot::channel();
        let world = process.world.clone();
        tokio::spawn(async move {
            sleep(fate.before).await;
            let distorted = matches!(fate.end, End::Garbled | End::NotFound | End::Short);
            let answer = match fate.end {
                End::Fails(error) => Err(error),
                End::Hangs {
                    takes_effect: false,
                } => return,
                End::Hangs { takes_effect: true } => {
                    let _ = effect(world, number, distorted).await;
                    return;
                }
                End::LosesAnswer(error) => effect(world, number, distorted).await.and(Err(error)),
                End::Well | End::Garbled | End::NotFound | End::Short => {
                    effect(world, number, distorted).await
                }
            };
            sleep(fate.after).await;
            // The pod may have stopped waiting.
            let _ = sender.send(answer);
        });
        process.step().await;
        let answer = match receiver.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        };
        process.step().await;
        std::mem::forget(pending);
        let returned = match &answer {
            Ok(result) => as_answer(result),
            Err(error) => Answer::Failed(error.kind),
        };
        process
            .world
            .note(process.number, What::Answered(number, returned));
        answer
    }
}

impl Updates for Pod {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        let pod = self.0.number;
        let effect = move |world: Arc<World>, call, garbled| async move {
            let mut claim = Claim::default();
            loop {
                let candidate = match world.attempt(claim) {
                    Attempt::Row(candidate, rest) => {
                        claim = rest;
                        candidate
                    }
                    Attempt::Nothing => return Ok(None),
                    Attempt::Conflict => {
                        return Err(CallError::new(CallErrorKind::Contended, "ten locks lost"));
                    }
                };
                // Other callers may come in between.
                yield_now().await;
                if let Some(row) = world.lock(pod, call, &candidate) {
                    return Ok(Some(if garbled { World::garbled() } else { row }));
                }
            }
        };
        self.call(Call::Next, effect, |row| match row {
            None => Answer::NoRow,
            Some(ClaimedRow::Update(update)) => Answer::Row {
                row: Some(update.offender_delta_id.0),
                failed_update: update.failed_update,
                readable: true,
            },
            Some(ClaimedRow::Unreadable(update)) => Answer::Row {
                row: update.offender_delta_id.map(|id| id.0),
                failed_update: update.failed_update,
                readable: false,
            },
        })
        .await
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, CallError> {
        let effect = move |world: Arc<World>, _, not_found: bool| async move {
            Ok(world.identifiers(offender.0).filter(|_| !not_found))
        };
        self.call(
            Call::Identifiers(offender.0),
            effect,
            |identifiers| match identifiers {
                Some(_) => Answer::Found,
                None => Answer::NotFound,
            },
        )
        .await
    }

    async fn delete(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        let pod = self.0.number;
        let effect = move |world: Arc<World>, call, _| async move {
            world.delete(pod, call, row.0);
            Ok(())
        };
        self.call(Call::Delete(row.0), effect, |()| Answer::Done)
            .await
    }

    async fn mark_as_failed(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        let pod = self.0.number;
        let effect = move |world: Arc<World>, call, _| async move {
            world.mark(pod, call, row.0);
            Ok(())
        };
        self.call(Call::Mark(row.0), effect, |()| Answer::Done)
            .await
    }
}

impl Topic for Pod {
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        let pod = self.0.number;
        let events: Vec<EventOf> = events
            .iter()
            .map(|event| self.0.world.event_of(event))
            .collect();
        let sent = events.clone();
        let effect = move |world: Arc<World>, call, short| async move {
            let mut answers = world.publish(pod, call, &sent);
            if short {
                answers.pop();
            }
            Ok(answers)
        };
        self.call(Call::Publish(events), effect, |answers| {
            let returned = answers
                .iter()
                .map(|answer| answer.clone().map_err(|error| error.kind));
            Answer::Events(returned.collect())
        })
        .await
    }
}
