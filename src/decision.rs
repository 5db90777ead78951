//! What happens next to a claimed row: the rules of the service, without clock and I/O.

use crate::event::mappings::EventOption;
use crate::event::{Event, Identifiers, events_of};
use crate::offender_update::ClaimedRow;
use crate::outcome::Reason;

/// What the service knows of a row. Each answer to a call adds to it.
#[derive(Clone, PartialEq, Eq)]
pub enum Known {
    /// It is claimed, and nothing else has been done.
    Claimed,
    /// Its offender was found.
    Found(Identifiers),
    /// Its offender is not visible to community-api.
    NotFound,
    /// The topic will never accept one of its messages.
    Refused,
    /// The topic has accepted all of its events, on this claim or an earlier one of this pod.
    Published,
}

/// The next step for a row.
#[derive(Clone, PartialEq, Eq)]
pub enum Next {
    /// Look up the offender's identifiers.
    Identify,
    /// Publish these events.
    Publish(Vec<Event>),
    /// Delete it.
    Delete,
    /// Mark it as permanently failed, so that it is never served again.
    Mark,
    /// Leave it locked: it comes back, as a failed update, when the lock expires.
    Leave(Reason),
}

/// The next step for a row. The same arguments always give the same step.
#[must_use]
pub fn next(row: &ClaimedRow, known: &Known, options: &[EventOption]) -> Next {
    let update = match row {
        ClaimedRow::Update(update) => update,
        ClaimedRow::Unreadable(row) => return second_chance(row.failed_update, Reason::Unreadable),
    };
    match known {
        Known::Claimed => Next::Identify,
        Known::Found(identifiers) => Next::Publish(events_of(update, identifiers, options)),
        Known::Published => Next::Delete,
        Known::NotFound => second_chance(update.failed_update, Reason::NotVisible),
        Known::Refused => second_chance(update.failed_update, Reason::Refused),
    }
}

/// The rule for every row that yields no events. Each of the reasons can be temporary, so the row is marked only when
/// it comes back and the reason is still there.
fn second_chance(failed_update: bool, reason: Reason) -> Next {
    if failed_update {
        Next::Mark
    } else {
        Next::Leave(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offender_update::OffenderId;

    fn row(failed_update: bool, source_table: Option<&str>) -> ClaimedRow {
        let row = serde_json::json!({
            "offenderId": 1, "dateChanged": "2020-07-19T13:56:43", "action": "UPSERT", "offenderDeltaId": 5,
            "sourceTable": source_table, "failedUpdate": failed_update,
        });
        ClaimedRow::from_json(row.to_string().as_bytes())
            .unwrap()
            .unwrap()
    }

    fn name(next: Next) -> String {
        match next {
            Next::Identify => "identify".to_owned(),
            Next::Publish(events) => format!("publish {}", events.len()),
            Next::Delete => "delete".to_owned(),
            Next::Mark => "mark".to_owned(),
            Next::Leave(reason) => format!("leave {reason:?}"),
        }
    }

    #[test]
    fn the_next_step_follows_from_what_is_known() {
        let found = Known::Found(Identifiers {
            offender_id: OffenderId(1),
            crn: "X1".to_owned(),
            noms_number: None,
        });
        let alias = Some("ALIAS");
        for (table, known, first_time, on_return) in [
            (alias, Known::Claimed, "identify", "identify"),
            (alias, found, "publish 2", "publish 2"),
            (alias, Known::Published, "delete", "delete"),
            (alias, Known::NotFound, "leave NotVisible", "mark"),
            (alias, Known::Refused, "leave Refused", "mark"),
            (None, Known::Claimed, "leave Unreadable", "mark"),
        ] {
            assert_eq!(name(next(&row(false, table), &known, &[])), first_time);
            assert_eq!(name(next(&row(true, table), &known, &[])), on_return);
        }
    }
}
