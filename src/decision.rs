//! What is to be done with a claimed row: the rules of the service, without clock and I/O.

use crate::event::{Event, Identifiers, events_of};
use crate::offender_update::OffenderUpdate;

/// What to do with a row.
#[derive(Clone, PartialEq, Eq)]
pub enum Decision {
    /// Publish these events, then delete the row.
    Publish(Vec<Event>),
    /// No events; give up now or later.
    NoEvents(Verdict),
}

/// What becomes of a row from which no events can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it locked: it comes back, as a failed update, when the lock has run out.
    LeaveLocked,
    /// It has come back already: mark it as permanently failed, so that it is never served again.
    GiveUp,
}

/// Decides on a row whose identifiers were found, or not (`None`: the offender is not visible to community-api).
#[must_use]
pub fn decide(update: &OffenderUpdate, identifiers: Option<&Identifiers>) -> Decision {
    match identifiers {
        Some(identifiers) => Decision::Publish(events_of(update, identifiers)),
        None => Decision::NoEvents(second_chance(update.failed_update)),
    }
}

/// The rule for every row that yields no events (offender not visible, row unreadable, message refused by the topic): it
/// is given a second chance after the lock has run out, since each of these can be a passing fault.
#[must_use]
pub fn second_chance(failed_update: bool) -> Verdict {
    if failed_update {
        Verdict::GiveUp
    } else {
        Verdict::LeaveLocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offender_update::{OffenderDeltaId, OffenderId};

    #[test]
    fn a_row_is_published_if_its_offender_is_found_and_given_up_only_on_its_return() {
        let identifiers = Identifiers {
            offender_id: OffenderId(1),
            crn: "X1".to_owned(),
            noms_number: None,
        };
        for failed_update in [false, true] {
            let update = OffenderUpdate {
                offender_delta_id: OffenderDeltaId(5),
                offender_id: OffenderId(1),
                date_changed: "2020-07-19T13:56:43".parse().unwrap(),
                action: "UPSERT".to_owned(),
                source_table: "ALIAS".to_owned(),
                source_record_id: None,
                failed_update,
            };
            assert!(
                matches!(decide(&update, Some(&identifiers)), Decision::Publish(events) if events.len() == 2)
            );
            let verdict = if failed_update {
                Verdict::GiveUp
            } else {
                Verdict::LeaveLocked
            };
            assert!(decide(&update, None) == Decision::NoEvents(verdict));
        }
    }
}
