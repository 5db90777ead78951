//! Turns a row into the events that subscribers receive: their types, bodies and ids.

pub mod mappings;

use serde::Serialize;
use uuid::Uuid;

use self::mappings::{EventOption, GENERIC_EVENT_TYPE, MAPPINGS, OTHER_TABLES};

use crate::fields::Fields;
use crate::offender_update::{ChangeId, OffenderId, OffenderUpdate};

/// How the rest of the justice system knows an offender.
#[derive(Clone, PartialEq, Eq)]
pub struct Identifiers {
    /// The offender's id in Delius, as the answer from `identifiers` gives it.
    pub offender_id: OffenderId,
    /// The case reference number.
    pub crn: String,
    /// The prison number, if the offender has one. An empty one is kept.
    pub noms_number: Option<String>,
}

impl Identifiers {
    /// Reads the body of a 200 answer from `identifiers`. An error never quotes a value.
    pub fn from_json(body: &[u8]) -> Result<Self, String> {
        let fields = Fields::of(body, &["offenderId", "primaryIdentifiers"]);
        let fields = fields.map_err(|problem| problem.to_string())?;
        let primary = fields.present("primaryIdentifiers").unwrap_or("{}");
        let primary = Fields::of(primary.as_bytes(), &["crn", "nomsNumber"])
            .map_err(|_| "primaryIdentifiers is not an object")?;
        Ok(Self {
            offender_id: OffenderId(fields.integer("offenderId")?),
            crn: primary.text("crn")?,
            noms_number: primary.optional_text("nomsNumber")?,
        })
    }
}

/// One message for the topic.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The value of the `eventType` attribute, by which subscribers filter.
    pub event_type: String,
    /// The value of the `id` attribute: always the same for the same change and event type, so that a subscriber can
    /// drop a redelivery.
    pub id: Uuid,
    /// The message: JSON.
    pub body: String,
}

/// The body of OFFENDER_CHANGED. `web::messages` describes both bodies to subscribers.
// The order of the fields is part of the contract; nulls are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenericMessage<'a> {
    offender_id: i64,
    crn: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    noms_number: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecificMessage<'a> {
    #[serde(flatten)]
    generic: &'a GenericMessage<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_id: Option<i64>,
    event_datetime: String,
}

/// The events of one row, in the order in which they are published.
pub fn events_of(
    update: &OffenderUpdate,
    identifiers: &Identifiers,
    options: &[EventOption],
) -> Vec<Event> {
    let generic = GenericMessage {
        offender_id: identifiers.offender_id.0,
        crn: &identifiers.crn,
        noms_number: identifiers.noms_number.as_deref(),
    };
    let specific = SpecificMessage {
        generic: &generic,
        source_id: update.source_record_id,
        event_datetime: update.date_changed.to_string(),
    };
    let (event_type, generic_too) = event_type_of(update, options);
    let change = update.change_id();
    let mut events = Vec::with_capacity(2);
    if generic_too {
        events.push(event(change, GENERIC_EVENT_TYPE.to_owned(), &generic));
    }
    events.push(event(change, event_type, &specific));
    events
}

/// The specific event type of a row, and whether the generic event is published before it.
pub fn event_type_of(update: &OffenderUpdate, options: &[EventOption]) -> (String, bool) {
    MAPPINGS
        .iter()
        .find(|mapping| {
            mapping.source_table == update.source_table
                && mapping.action.is_none_or(|action| action == update.action)
                && mapping
                    .option
                    .is_none_or(|option| options.contains(&option))
        })
        .map_or_else(
            || {
                (
                    format!("{}_CHANGED", update.source_table),
                    OTHER_TABLES.generic_too,
                )
            },
            |mapping| (mapping.event_type.to_owned(), mapping.generic_too),
        )
}

/// The table in [`MAPPINGS`] whose name differs from this one only in case or surrounding spaces. Names are compared
/// exactly, as the service's predecessor did, so such a name counts as one of [`OTHER_TABLES`].
pub fn similar_table(source_table: &str) -> Option<&'static str> {
    let mut known = MAPPINGS.iter().map(|mapping| mapping.source_table);
    known.find(|known| *known != source_table && known.eq_ignore_ascii_case(source_table.trim()))
}

fn event(change: ChangeId, event_type: String, body: &impl Serialize) -> Event {
    Event {
        id: Uuid::new_v5(&change.0, event_type.as_bytes()),
        event_type,
        // A struct of numbers and strings always becomes JSON.
        body: serde_json::to_string(body).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offender_update::OffenderDeltaId;

    fn update(source_table: &str, action: &str) -> OffenderUpdate {
        OffenderUpdate {
            offender_delta_id: OffenderDeltaId(5),
            offender_id: OffenderId(102),
            date_changed: "2020-07-19T13:56:43".parse().unwrap(),
            action: action.to_owned(),
            source_table: source_table.to_owned(),
            source_record_id: Some(345),
            failed_update: false,
        }
    }

    fn identifiers(noms_number: Option<&str>) -> Identifiers {
        Identifiers {
            offender_id: OffenderId(1),
            crn: "X1".to_owned(),
            noms_number: noms_number.map(str::to_owned),
        }
    }

    fn events_of(update: &OffenderUpdate, identifiers: &Identifiers) -> Vec<Event> {
        super::events_of(update, identifiers, &[])
    }

    #[test]
    fn identifiers_are_read_and_problems_name_the_field_without_its_value() {
        let read = |json: &str| Identifiers::from_json(json.as_bytes());
        let all = read(r#"{"offenderId":1,"primaryIdentifiers":{"crn":"X1","nomsNumber":"","pncNumber":null},"x":1}"#).ok().unwrap();
        assert_eq!(
            (
                all.offender_id,
                all.crn.as_str(),
                all.noms_number.as_deref()
            ),
            (OffenderId(1), "X1", Some(""))
        );
        let null = read(r#"{"offenderId":1,"primaryIdentifiers":{"crn":"X1","nomsNumber":null}}"#)
            .ok()
            .unwrap();
        assert_eq!(null.noms_number, None);
        for (json, problem) in [
            ("", "the body is empty"),
            ("[]", "the body is not a JSON object"),
            (
                r#"{"offenderId":"SECRET"}"#,
                "offenderId is not a 64-bit whole number",
            ),
            (r#"{"offenderId":1}"#, "crn is missing"),
            (
                r#"{"offenderId":1,"primaryIdentifiers":"SECRET"}"#,
                "primaryIdentifiers is not an object",
            ),
            (
                r#"{"offenderId":1,"primaryIdentifiers":{"crn":""}}"#,
                "crn is empty",
            ),
            (
                r#"{"offenderId":1,"primaryIdentifiers":{"crn":"X1","nomsNumber":7}}"#,
                "nomsNumber is not a string",
            ),
        ] {
            assert_eq!(read(json).err().as_deref(), Some(problem), "{json}");
        }
    }

    #[test]
    fn each_table_raises_its_events_generic_first() {
        for (table, action, expected) in [
            (
                "ALIAS",
                "UPSERT",
                &["OFFENDER_CHANGED", "OFFENDER_ALIAS_CHANGED"][..],
            ),
            (
                "OFFENDER",
                "UPSERT",
                &["OFFENDER_CHANGED", "OFFENDER_DETAILS_CHANGED"],
            ),
            (
                "OFFENDER_ADDRESS",
                "DELETE",
                &["OFFENDER_CHANGED", "OFFENDER_ADDRESS_CHANGED"],
            ),
            (
                "OFFENDER_MANAGER",
                "INSERT",
                &["OFFENDER_CHANGED", "OFFENDER_MANAGER_CHANGED"],
            ),
            (
                "OFFICER",
                "UPSERT",
                &["OFFENDER_CHANGED", "OFFENDER_OFFICER_CHANGED"],
            ),
            (
                "DEREGISTRATION",
                "UPSERT",
                &["OFFENDER_REGISTRATION_DEREGISTERED"],
            ),
            ("DISPOSAL", "UPSERT", &["SENTENCE_CHANGED"]),
            ("EVENT", "UPSERT", &["CONVICTION_CHANGED"]),
            (
                "MANAGEMENT_TIER_EVENT",
                "UPSERT",
                &["OFFENDER_MANAGEMENT_TIER_CALCULATION_REQUIRED"],
            ),
            ("MERGE_HISTORY", "UPSERT", &["OFFENDER_MERGED"]),
            (
                "OGRS_ASSESSMENT",
                "UPSERT",
                &["OFFENDER_OGRS_ASSESSMENT_CHANGED"],
            ),
            ("REGISTRATION", "DELETE", &["OFFENDER_REGISTRATION_DELETED"]),
            ("REGISTRATION", "UPSERT", &["OFFENDER_REGISTRATION_CHANGED"]),
            ("REGISTRATION", "INSERT", &["OFFENDER_REGISTRATION_CHANGED"]),
            ("RQMNT", "DELETE", &["SENTENCE_ORDER_REQUIREMENT_CHANGED"]),
            ("CONTACT", "UPSERT", &["CONTACT_CHANGED"]),
            ("CONTACT", "DELETE", &["CONTACT_CHANGED"]),
            ("ORDER_MANAGER", "UPSERT", &["ORDER_MANAGER_CHANGED"]),
            ("alias", "UPSERT", &["alias_CHANGED"]),
            (" ALIAS ", "UPSERT", &[" ALIAS _CHANGED"]),
        ] {
            let events = events_of(&update(table, action), &identifiers(None));
            let types: Vec<_> = events
                .iter()
                .map(|event| event.event_type.as_str())
                .collect();
            assert_eq!(types, expected, "{table} {action}");
        }
    }

    #[test]
    fn tables_are_similar_if_only_case_or_spaces_differ() {
        for (name, similar) in [
            ("alias", Some("ALIAS")),
            (" ALIAS ", Some("ALIAS")),
            ("Offender_Address", Some("OFFENDER_ADDRESS")),
            ("contact", Some("CONTACT")),
            ("ALIAS", None),
            ("CONTACT", None),
            ("OFFENDER ADDRESS", None),
            ("ORDER_MANAGER", None),
            ("order_manager", None),
            ("ALIASES", None),
            ("", None),
        ] {
            assert_eq!(similar_table(name), similar, "{name:?}");
        }
    }

    #[test]
    fn a_deleted_contact_has_its_own_event_type_only_with_the_option() {
        let off = &[][..];
        let on = &[EventOption::ContactDeleted][..];
        for (table, action, options, expected) in [
            ("CONTACT", "DELETE", off, "CONTACT_CHANGED"),
            ("CONTACT", "DELETE", on, "CONTACT_DELETED"),
            ("CONTACT", "UPSERT", on, "CONTACT_CHANGED"),
            ("CONTACT", "delete", on, "CONTACT_CHANGED"),
            ("ORDER_MANAGER", "DELETE", on, "ORDER_MANAGER_CHANGED"),
            (
                "REGISTRATION",
                "DELETE",
                on,
                "OFFENDER_REGISTRATION_DELETED",
            ),
        ] {
            let events = super::events_of(&update(table, action), &identifiers(None), options);
            let types: Vec<_> = events.iter().map(|event| &event.event_type).collect();
            assert_eq!(types, [expected], "{table} {action} {options:?}");
        }
    }

    #[test]
    fn bodies_match_the_contract_byte_for_byte() {
        let events = events_of(&update("ALIAS", "UPSERT"), &identifiers(Some("A1234AA")));
        assert_eq!(
            events[0].body,
            r#"{"offenderId":1,"crn":"X1","nomsNumber":"A1234AA"}"#
        );
        assert_eq!(
            events[1].body,
            r#"{"offenderId":1,"crn":"X1","nomsNumber":"A1234AA","sourceId":345,"eventDatetime":"2020-07-19T13:56:43"}"#
        );
    }

    #[test]
    fn nulls_are_left_out_and_an_empty_noms_number_is_kept() {
        let mut row = update("ALIAS", "UPSERT");
        row.source_record_id = None;
        let events = events_of(&row, &identifiers(None));
        assert_eq!(events[0].body, r#"{"offenderId":1,"crn":"X1"}"#);
        assert_eq!(
            events[1].body,
            r#"{"offenderId":1,"crn":"X1","eventDatetime":"2020-07-19T13:56:43"}"#
        );
        let events = events_of(&row, &identifiers(Some("")));
        assert_eq!(
            events[0].body,
            r#"{"offenderId":1,"crn":"X1","nomsNumber":""}"#
        );
    }

    #[test]
    fn ids_depend_only_on_row_and_type() {
        let first = events_of(&update("ALIAS", "UPSERT"), &identifiers(None));
        let again = events_of(&update("ALIAS", "UPSERT"), &identifiers(Some("A1234AA")));
        assert_eq!(first[0].id, again[0].id);
        assert_eq!(first[1].id, again[1].id);
        assert_ne!(first[0].id, first[1].id);
        assert_eq!(first[0].id.get_version_num(), 5);
        let mut other = update("ALIAS", "UPSERT");
        other.offender_delta_id = OffenderDeltaId(6);
        assert_ne!(events_of(&other, &identifiers(None))[0].id, first[0].id);
    }
}
