//! Planted bugs, between the poller and the world. They show that the simulation can find bugs.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use probation_offender_events::event::{Event, Identifiers, events_of};
use probation_offender_events::offender_update::{
    ClaimedRow, OffenderDeltaId, OffenderId, OffenderUpdate,
};
use probation_offender_events::ports::{CallError, Topic, Updates};
use tokio::time::sleep;
use uuid::Uuid;

use crate::pod::Pod;
use crate::rows::identifiers_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    DeleteBeforePublish,
    MarkOnFirstNotFound,
    FoundRowTakenForOneThatCameBack,
    RetryOfTheWholeBatch,
    PublishAfterTheLease,
    ForgottenRow,
    DeleteOnlyClaimed,
    OrderBroken,
    OneBadRowStopsAllClaims,
    RowPanics,
}

/// The world as the poller sees it, with or without a bug.
#[derive(Clone)]
pub struct Planted {
    pod: Pod,
    bug: Option<Bug>,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    claims: u64,
    /// The true offender of each false one.
    offenders: BTreeMap<i64, OffenderId>,
    /// The events that went with each accepted one.
    batches: Vec<Vec<Event>>,
    failing: BTreeSet<OffenderId>,
    /// The true id of each event of a false offender.
    event_ids: BTreeMap<Uuid, Uuid>,
}

impl Planted {
    pub fn new(pod: Pod, bug: Option<Bug>) -> Self {
        Self {
            pod,
            bug,
            memory: Arc::default(),
        }
    }

    /// The two ports that a poller takes.
    pub fn pair(self) -> (Self, Self) {
        (self.clone(), self)
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

impl Updates for Planted {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        while self.has(Bug::OneBadRowStopsAllClaims) && !self.memory().failing.is_empty() {
            sleep(Duration::from_secs(1)).await;
        }
        let mut claimed = self.pod.next().await?;
        self.memory().claims += 1;
        let claims = self.memory().claims;
        if self.has(Bug::ForgottenRow) && claims.is_multiple_of(5) {
            return Ok(None);
        }
        match &mut claimed {
            Some(ClaimedRow::Update(update)) if self.has(Bug::MarkOnFirstNotFound) => {
                update.failed_update |= !self.pod.finds(update.offender_id);
            }
            Some(ClaimedRow::Update(update)) if self.has(Bug::FoundRowTakenForOneThatCameBack) => {
                update.failed_update |= self.pod.finds(update.offender_id);
            }
            Some(ClaimedRow::Update(update)) if self.has(Bug::OrderBroken) => {
                // The same at each claim, so that it is the same change.
                let pretended = -update.offender_delta_id.0;
                let found = identifiers_of(update.offender_id.0);
                let ids = |update: &OffenderUpdate| {
                    let events = events_of(update, &found, &[]).into_iter();
                    events.map(|event| event.id).collect::<Vec<_>>()
                };
                let true_ids = ids(update);
                let mut memory = self.memory();
                memory.offenders.insert(pretended, update.offender_id);
                update.offender_id = OffenderId(pretended);
                memory
                    .event_ids
                    .extend(ids(update).into_iter().zip(true_ids));
            }
            _ => {}
        }
        Ok(claimed)
    }

    async fn identifiers(&self, offender: OffenderId) -> Result<Option<Identifiers>, CallError> {
        let known = self.memory().offenders.get(&offender.0).copied();
        let offender = known.unwrap_or(offender);
        if self.has(Bug::OneBadRowStopsAllClaims) {
            self.memory().failing.insert(offender);
        }
        let answer = self.pod.identifiers(offender).await;
        if answer.is_ok() {
            self.memory().failing.remove(&offender);
        }
        answer
    }

    async fn delete(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        if self.has(Bug::RowPanics) && row.0 % 7 == 0 {
            // A panic that prints nothing.
            resume_unwind(Box::new("planted"));
        }
        if self.has(Bug::DeleteOnlyClaimed) && row.0 % 7 == 0 {
            return Ok(());
        }
        self.pod.delete(row).await
    }

    async fn mark_as_failed(&self, row: OffenderDeltaId) -> Result<(), CallError> {
        self.pod.mark_as_failed(row).await
    }
}

impl Topic for Planted {
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        if self.has(Bug::DeleteBeforePublish) {
            return Ok(events.iter().map(|_| Ok(())).collect());
        }
        if self.has(Bug::RetryOfTheWholeBatch) {
            return self.publish_whole_batch(events).await;
        }
        let mut events = events.to_vec();
        for event in &mut events {
            event.id = *self.memory().event_ids.get(&event.id).unwrap_or(&event.id);
        }
        self.pod.publish(&events).await
    }
}

impl Planted {
    async fn publish_whole_batch(
        &self,
        events: &[Event],
    ) -> Result<Vec<Result<(), CallError>>, CallError> {
        let known = self
            .memory()
            .batches
            .iter()
            .find(|batch| batch.iter().any(|event| event.id == events[0].id))
            .cloned();
        let batch = known.unwrap_or_else(|| {
            self.memory().batches.push(events.to_vec());
            events.to_vec()
        });
        let answers = self.pod.publish(&batch).await?;
        let asked = batch
            .iter()
            .zip(answers)
            .filter(|(event, _)| events.iter().any(|asked| asked.id == event.id));
        Ok(asked.map(|(_, answer)| answer).collect())
    }
}
