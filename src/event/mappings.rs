//! The only table of event types. It says which change raises which event, and describes each event for subscribers.
//! Tests compare docs/subscribing.md, OpenAPI and AsyncAPI with it.

/// The deprecated event. It says only that something about an offender changed.
pub const GENERIC_EVENT_TYPE: &str = "OFFENDER_CHANGED";

/// When [`GENERIC_EVENT_TYPE`] is raised.
pub const GENERIC_RAISED_WHEN: &str =
    "Deprecated: published before the specific event of some changes";

/// A setting that adds event types. All are off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOption {
    /// A deleted contact has a separate event type.
    ContactDeleted,
}

impl EventOption {
    /// The environment variable that switches it on.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::ContactDeleted => "OFFENDERUPDATEPOLL_CONTACTDELETED",
        }
    }
}

/// What subscribers receive for a change to one table of Delius.
#[derive(Debug)]
pub struct Mapping {
    /// The table, as OFFENDER_DELTA names it.
    pub source_table: &'static str,
    /// Only changes with this action; any action if `None`.
    pub action: Option<&'static str>,
    /// Only if this option is on.
    pub option: Option<EventOption>,
    /// The specific event type.
    pub event_type: &'static str,
    /// Whether [`GENERIC_EVENT_TYPE`] is published before it.
    pub generic_too: bool,
    /// What has happened, for subscribers.
    pub raised_when: &'static str,
    /// What the message's `sourceId` identifies, with the column of `source_table`.
    pub source_id: &'static str,
}

const fn specific(
    source_table: &'static str,
    event_type: &'static str,
    raised_when: &'static str,
    source_id: &'static str,
) -> Mapping {
    Mapping {
        source_table,
        action: None,
        option: None,
        event_type,
        generic_too: false,
        raised_when,
        source_id,
    }
}

impl Mapping {
    const fn with_generic(self) -> Self {
        Self {
            generic_too: true,
            ..self
        }
    }

    const fn only_on(self, action: &'static str) -> Self {
        Self {
            action: Some(action),
            ..self
        }
    }

    const fn only_with(self, option: EventOption) -> Self {
        Self {
            option: Some(option),
            ..self
        }
    }
}

/// Every table with a separate event type. The first match counts. Any other table raises what [`OTHER_TABLES`] says.
#[rustfmt::skip]
pub const MAPPINGS: &[Mapping] = &[
    specific("ALIAS", "OFFENDER_ALIAS_CHANGED",
        "An alias was added, changed or deleted", "alias (ALIAS_ID)").with_generic(),
    specific("OFFENDER", "OFFENDER_DETAILS_CHANGED",
        "The offender's own record was added, changed or deleted", "offender (OFFENDER_ID)").with_generic(),
    specific("OFFENDER_ADDRESS", "OFFENDER_ADDRESS_CHANGED",
        "An address was added, changed or deleted", "address (OFFENDER_ADDRESS_ID)").with_generic(),
    specific("OFFENDER_MANAGER", "OFFENDER_MANAGER_CHANGED",
        "An allocation to a community offender manager was added, changed or deleted", "allocation (OFFENDER_MANAGER_ID)").with_generic(),
    specific("OFFICER", "OFFENDER_OFFICER_CHANGED",
        "The record of the offender's officer was added, changed or deleted", "officer (OFFICER_ID)").with_generic(),
    specific("CONTACT", "CONTACT_DELETED",
        "A contact was deleted. If Delius only marks its record as deleted, CONTACT_CHANGED is raised", "contact (CONTACT_ID)")
        .only_on("DELETE").only_with(EventOption::ContactDeleted),
    specific("DEREGISTRATION", "OFFENDER_REGISTRATION_DEREGISTERED",
        "A registration was ended, or the record of its end was changed or deleted", "deregistration (DEREGISTRATION_ID)"),
    specific("DISPOSAL", "SENTENCE_CHANGED",
        "A sentence was added, changed or deleted", "sentence (DISPOSAL_ID)"),
    specific("EVENT", "CONVICTION_CHANGED",
        "A conviction (in Delius an event) was added, changed or deleted", "conviction (EVENT_ID)"),
    specific("MANAGEMENT_TIER_EVENT", "OFFENDER_MANAGEMENT_TIER_CALCULATION_REQUIRED",
        "A change means that the offender's tier must be recalculated", "tier event (MANAGEMENT_TIER_EVENT_ID)"),
    specific("MERGE_HISTORY", "OFFENDER_MERGED",
        "Two records of one offender were merged", "merge (MERGE_HISTORY_ID)"),
    specific("OGRS_ASSESSMENT", "OFFENDER_OGRS_ASSESSMENT_CHANGED",
        "An OGRS assessment (risk of reconviction) was added, changed or deleted", "assessment (OGRS_ASSESSMENT_ID)"),
    specific("REGISTRATION", "OFFENDER_REGISTRATION_DELETED",
        "A registration (an entry in a register of risks) was deleted", "registration (REGISTRATION_ID)").only_on("DELETE"),
    specific("REGISTRATION", "OFFENDER_REGISTRATION_CHANGED",
        "A registration was added or changed", "registration (REGISTRATION_ID)"),
    specific("RQMNT", "SENTENCE_ORDER_REQUIREMENT_CHANGED",
        "A requirement of a sentence was added, changed or deleted", "requirement (RQMNT_ID)"),
];

/// Any table that is not in [`MAPPINGS`]. `T` stands for its name. New tables need no release of this service.
pub const OTHER_TABLES: Mapping = specific(
    "any other, T",
    "T_CHANGED",
    "A record of any other table T (for example CONTACT) was added, changed or deleted",
    "record (the key of table T)",
);

impl Mapping {
    /// The change that raises the event, as the tables in the documents show it.
    pub fn changed(&self) -> String {
        let table = self.source_table;
        let has_sibling =
            |other: &Mapping| other.source_table == self.source_table && other.action.is_some();
        let changed = match self.action {
            Some("DELETE") => format!("{table}, deleted"),
            Some(action) => format!("{table}, {action}"),
            None if MAPPINGS.iter().any(has_sibling) => format!("{table}, otherwise"),
            None => table.to_owned(),
        };
        match self.option {
            Some(option) => format!("{changed} (only if {} is true)", option.setting()),
            None => changed,
        }
    }
}
