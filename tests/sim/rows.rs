//! The rows as the world knows them: their tables, their events, and how they ended.

use probation_offender_events::event::{Event, Identifiers, events_of};
use probation_offender_events::offender_update::{ClaimedRow, OffenderId};
use sandbox::delius::NewUpdate;

use crate::seed::RowPlan;

/// The id of the plan's first offender.
pub const FIRST_OFFENDER: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    Deleted,
    Failed,
    Swallowed,
}

#[derive(Clone, Debug)]
pub struct RowInWorld {
    pub plan: RowPlan,
    pub standing: Standing,
    pub events: usize,
}

impl RowInWorld {
    pub fn offender_id(&self) -> i64 {
        FIRST_OFFENDER + i64::try_from(self.plan.offender).unwrap()
    }
}

pub const TABLES: [&str; 9] = [
    "ALIAS",
    "OFFENDER",
    "OFFENDER_ADDRESS",
    "OFFENDER_MANAGER",
    "OFFICER",
    "REGISTRATION",
    "EVENT",
    "CONTACT",
    "DISPOSAL",
];

/// Whether a change to the table raises the generic event too.
pub fn has_generic_event(table: &str) -> bool {
    TABLES[..5].contains(&table)
}

pub fn identifiers_of(offender: i64) -> Identifiers {
    Identifiers {
        offender_id: OffenderId(offender),
        crn: format!("X{offender:06}"),
        noms_number: None,
    }
}

/// The events by which the row's messages are recognised. Their number follows the contract.
pub fn expected_events(update: &NewUpdate, id: i64, count: usize) -> Vec<Event> {
    let json = serde_json::json!({
        "offenderDeltaId": id,
        "offenderId": update.offender_id,
        "dateChanged": "2020-07-19T13:56:43",
        "action": update.action,
        "sourceTable": update.source_table,
        "sourceRecordId": update.source_record_id,
    });
    let row = ClaimedRow::from_json(json.to_string().as_bytes());
    let Ok(Some(ClaimedRow::Update(update))) = row else {
        panic!("the row can be read: {json}");
    };
    let events = events_of(&update, &identifiers_of(update.offender_id.0), &[]);
    assert_eq!(events.len(), count, "{json}");
    events
}
