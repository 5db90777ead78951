//! The world around the pods: the sandbox's OFFENDER_DELTA in memory, the identifiers, the topic, the clock and the
//! log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use probation_offender_events::event::{Event, Identifiers};
use probation_offender_events::offender_update::ClaimedRow;
use probation_offender_events::ports::{CallError, CallErrorKind};
use sandbox::Delius;
use sandbox::delius::{Attempt, Candidate, Claim, NewUpdate, UpdateRow};
use tokio::time::Instant;
use uuid::Uuid;

use crate::faults::{End, Fate, FaultKind};
use crate::log::{Call, Entry, EventOf, What};
use crate::rows::{
    FIRST_OFFENDER, RowInWorld, Standing, expected_events, has_generic_event, identifiers_of,
};
use crate::seed::{Offender, Plan, RowPlan};

/// The start of the run on Delius' clock.
const EPOCH: i64 = 1_600_000_000;

pub struct World {
    pub plan: Arc<Plan>,
    delius: Delius,
    started: Instant,
    state: Mutex<State>,
}

pub struct State {
    pub log: Vec<Entry>,
    pub rows: BTreeMap<i64, RowInWorld>,
    events: BTreeMap<Uuid, EventOf>,
    rng: Rng,
    last_call: u64,
    jumped: i64,
    /// How far the pod that does not stall is ahead of the clock.
    ahead: i64,
    pub trouble_over: bool,
}

impl World {
    pub fn new(plan: Arc<Plan>, delius: Delius) -> Self {
        let state = State {
            log: Vec::new(),
            rows: BTreeMap::new(),
            events: BTreeMap::new(),
            rng: Rng::with_seed(plan.seed ^ 0x5eed),
            last_call: 0,
            jumped: 0,
            ahead: 0,
            trouble_over: false,
        };
        Self {
            plan,
            delius,
            started: Instant::now(),
            state: Mutex::new(state),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Delius' time, in whole seconds.
    fn unix_seconds(&self) -> i64 {
        let state = self.state();
        EPOCH + i64::try_from(self.now().as_secs()).unwrap() + state.jumped + state.ahead
    }

    /// Lets something happen as if this time had passed.
    pub fn ahead_of_time(&self, time: Duration, happens: impl FnOnce()) {
        self.state().ahead = i64::try_from(time.as_secs()).unwrap();
        happens();
        self.state().ahead = 0;
    }

    /// Receives a call that succeeds. Returns its number.
    pub fn begin_well(&self, pod: usize, call: Call) -> u64 {
        let mut state = self.state();
        state.last_call += 1;
        let number = state.last_call;
        drop(state);
        self.note(pod, What::Sent(number, call));
        number
    }

    /// The events of a row.
    pub fn events_of_row(&self, row: i64) -> Vec<EventOf> {
        let events = self.state().rows[&row].events;
        (0..events).map(|index| EventOf { row, index }).collect()
    }

    pub fn note(&self, pod: usize, what: What) {
        let at = self.now();
        self.state().log.push(Entry { at, pod, what });
    }

    pub fn jump(&self, seconds: i64) {
        self.state().jumped += seconds;
        self.note(0, What::ClockJumped(seconds));
    }

    pub fn end_trouble(&self) {
        self.state().trouble_over = true;
        self.note(0, What::TroubleOver);
    }

    /// Receives a call. Returns its number and its fate.
    pub fn begin(&self, pod: usize, call: &Call) -> (u64, Fate) {
        let now = self.now();
        let endpoint = call.endpoint();
        let plan = &self.plan;
        let limit = match call {
            Call::Next => plan.settings.claim_timeout,
            Call::Publish(_) => plan.settings.publish_timeout,
            _ => plan.settings.call_timeout,
        };
        let mut state = self.state();
        let State {
            rng, trouble_over, ..
        } = &mut *state;
        let fate = if let Call::Identifiers(offender) = *call
            && let Some(end) = self.always_fails(offender)
        {
            Fate {
                end,
                kind: Some(FaultKind::BadOffender),
                ..Fate::usual(&plan.rates, rng)
            }
        } else if let Some(outage) = plan
            .outages
            .iter()
            .find(|outage| outage.hits(now, endpoint))
        {
            Fate::of_outage(outage, &plan.rates, rng)
        } else if *trouble_over {
            Fate::usual(&plan.rates, rng)
        } else {
            Fate::draw(&plan.rates, endpoint, limit, rng)
        };
        drop(state);
        let number = self.begin_well(pod, call.clone());
        if let Some(kind) = fate.kind {
            self.note(pod, What::Faulted(number, kind));
        }
        (number, fate)
    }

    fn always_fails(&self, offender: i64) -> Option<End> {
        match self.offender(offender) {
            Offender::FailsUntil(until) if self.now() >= until => None,
            Offender::Fails | Offender::FailsUntil(_) => {
                Some(End::Fails(CallError::unavailable("500 for this one")))
            }
            Offender::Hangs => Some(End::Hangs {
                takes_effect: false,
            }),
            Offender::Well | Offender::Hidden { .. } => None,
        }
    }

    fn offender(&self, offender: i64) -> Offender {
        self.plan.offenders[usize::try_from(offender - FIRST_OFFENDER).unwrap()]
    }

    pub fn insert(&self, row: &RowPlan) {
        let now = self.unix_seconds();
        let date_changed = if row.unreadable {
            "soon"
        } else {
            "2020-07-19T13:56:43"
        };
        let update = NewUpdate {
            offender_id: FIRST_OFFENDER + i64::try_from(row.offender).unwrap(),
            date_changed: date_changed.to_owned(),
            action: "UPSERT".to_owned(),
            source_table: Some(row.table.to_owned()),
            source_record_id: row.record,
        };
        let id = self.delius.insert_update(&update, now).unwrap();
        if row.failed_before {
            let sql = format!(
                "UPDATE OFFENDER_DELTA SET STATUS = 'INPROGRESS', LAST_UPDATED_DATETIME = {} WHERE OFFENDER_DELTA_ID = {id}",
                now - 10_000
            );
            self.delius.execute(&sql).unwrap();
        }
        let events = 1 + usize::from(has_generic_event(row.table));
        let mut state = self.state();
        for (index, event) in expected_events(&update, id, events).into_iter().enumerate() {
            state.events.insert(event.id, EventOf { row: id, index });
        }
        let row = RowInWorld {
            plan: row.clone(),
            standing: Standing::Live,
            events,
        };
        state.rows.insert(id, row);
        drop(state);
        self.note(0, What::Inserted(id));
    }

    pub fn attempt(&self, claim: Claim) -> Attempt {
        self.delius.attempt(claim, self.unix_seconds()).unwrap()
    }

    /// Locks the candidate, and records which rows its row has replaced.
    pub fn lock(&self, pod: usize, call: u64, candidate: &Candidate) -> Option<ClaimedRow> {
        let Some(row) = self.delius.lock(candidate, self.unix_seconds()).unwrap() else {
            self.note(pod, What::LostRace(call));
            return None;
        };
        let id = row.offender_delta_id;
        let failed_update = row.failed_update;
        self.note(
            pod,
            What::Locked {
                call,
                row: id,
                failed_update,
            },
        );
        if !failed_update {
            let swallowed_rows = self.state().swallow(id);
            for swallowed in swallowed_rows {
                self.note(
                    pod,
                    What::Swallowed {
                        row: swallowed,
                        by: id,
                    },
                );
            }
        }
        Some(Self::as_answer(&row))
    }

    fn as_answer(row: &UpdateRow) -> ClaimedRow {
        ClaimedRow::from_json(&serde_json::to_vec(row).unwrap())
            .unwrap()
            .unwrap()
    }

    pub fn garbled() -> ClaimedRow {
        ClaimedRow::from_json(b"{}").unwrap().unwrap()
    }

    pub fn identifiers(&self, offender: i64) -> Option<Identifiers> {
        let visible = match self.offender(offender) {
            Offender::Hidden { until } => until.is_some_and(|until| self.now() >= until),
            _ => true,
        };
        visible.then(|| identifiers_of(offender))
    }

    pub fn delete(&self, pod: usize, call: u64, row: i64) {
        if self.delius.delete_update(row).unwrap() {
            self.note(pod, What::Deleted(call, row));
            self.state().row(row).standing = Standing::Deleted;
        }
    }

    pub fn mark(&self, pod: usize, call: u64, row: i64) {
        if self.delius.mark_failed(row, self.unix_seconds()).unwrap() {
            self.note(pod, What::Marked(call, row));
            self.state().row(row).standing = Standing::Failed;
        }
    }

    pub fn event_of(&self, event: &Event) -> EventOf {
        self.state().events[&event.id]
    }

    /// Accepts or refuses each event of a batch.
    pub fn publish(&self, pod: usize, call: u64, events: &[EventOf]) -> Vec<Result<(), CallError>> {
        events
            .iter()
            .map(|&event| {
                if let Some(kind) = self.fault_of(pod, call, event) {
                    return Err(CallError::new(kind, "refused by the topic"));
                }
                self.note(pod, What::Accepted(call, event));
                Ok(())
            })
            .collect()
    }

    fn fault_of(&self, pod: usize, call: u64, event: EventOf) -> Option<CallErrorKind> {
        let mut state = self.state();
        let row = &state.rows[&event.row];
        if row.plan.refused && event.index + 1 == row.events {
            return Some(CallErrorKind::Refused);
        }
        if state.trouble_over {
            return None;
        }
        let (fault, kind) = self.plan.rates.entry(&mut state.rng)?;
        drop(state);
        self.note(pod, What::Faulted(call, fault));
        Some(kind)
    }

    /// The table at the end must match the log.
    pub fn assert_consistent(&self) {
        let state = self.state();
        let remaining: Vec<i64> = self
            .delius
            .updates()
            .unwrap()
            .iter()
            .map(|row| row.offender_delta_id)
            .collect();
        let expected: Vec<i64> = state
            .rows
            .iter()
            .filter(|(_, row)| matches!(row.standing, Standing::Live | Standing::Failed))
            .map(|(&id, _)| id)
            .collect();
        assert_eq!(remaining, expected, "seed {}", self.plan.seed);
    }
}

impl State {
    fn row(&mut self, id: i64) -> &mut RowInWorld {
        self.rows.get_mut(&id).unwrap()
    }

    fn swallow(&mut self, by: i64) -> Vec<i64> {
        let key = |row: &RowInWorld| (row.plan.offender, row.plan.table, row.plan.record);
        let record = key(&self.rows[&by]);
        let mut swallowed = Vec::new();
        for (&id, row) in &mut self.rows {
            let there = matches!(row.standing, Standing::Live | Standing::Failed);
            if id != by && there && record.2.is_some() && key(row) == record {
                row.standing = Standing::Swallowed;
                swallowed.push(id);
            }
        }
        swallowed
    }

    /// Whether nothing more will happen to good rows.
    pub fn is_settled(&self, plan: &Plan) -> bool {
        self.rows.len() == plan.rows.len()
            && self.rows.values().all(|row| {
                row.standing != Standing::Live
                    || matches!(
                        plan.offenders[row.plan.offender],
                        Offender::Fails | Offender::Hangs
                    )
            })
    }
}
