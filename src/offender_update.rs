//! A row of OFFENDER_DELTA as community-api returns it: what changed, for whom, and when.
//!
//! Any JSON object becomes a row or an [`UnreadableUpdate`], which keeps what could be read. In either case
//! community-api has locked the row, so the service must settle it or leave it locked.

mod local_date_time;

use uuid::Uuid;

pub use self::local_date_time::LocalDateTime;

use crate::fields::{Fields, NotAnObject};

const FIELDS: &[&str] = &[
    "offenderDeltaId",
    "offenderId",
    "dateChanged",
    "action",
    "sourceTable",
    "sourceRecordId",
    "failedUpdate",
];

/// The longest action or table name that is accepted, in bytes. The widest column has 30 characters of up to 4 bytes.
/// Longer text is not a name, and must not get into a message attribute or the log.
const LONGEST_TEXT: usize = 120;

/// The id of an offender in Delius (`OFFENDER_ID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffenderId(pub i64);

/// The id of a row (`OFFENDER_DELTA_ID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffenderDeltaId(pub i64);

/// The identity of a change. The row's id alone is not enough, since ids are reused when a database is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeId(pub Uuid);

/// The namespace of [`ChangeId`]: the UUID v5 of the service's repository address in the URL namespace. If it changed,
/// subscribers would take every redelivery across that change for a new event.
const CHANGES: Uuid = Uuid::from_u128(0xc67d_58cc_67c7_5a07_8a48_ad73_6df6_b3b4);

/// What a claim returned: a row that is locked to this pod, readable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimedRow {
    /// A row with all required fields.
    Update(OffenderUpdate),
    /// A row that could be read only in part.
    Unreadable(UnreadableUpdate),
}

/// One change to an offender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffenderUpdate {
    /// The id by which the row is deleted or marked.
    pub offender_delta_id: OffenderDeltaId,
    /// Whose data changed.
    pub offender_id: OffenderId,
    /// When it changed, in London time.
    pub date_changed: LocalDateTime,
    /// `UPSERT`, `DELETE` or, in older data, `INSERT`.
    pub action: String,
    /// The table that was changed; never empty.
    pub source_table: String,
    /// The changed record in that table. Nullable in Delius.
    pub source_record_id: Option<i64>,
    /// Whether the row was claimed before, and its lock expired.
    pub failed_update: bool,
}

/// What could be read of a row that cannot be turned into events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableUpdate {
    /// The row's id, if it could be read.
    pub offender_delta_id: Option<OffenderDeltaId>,
    /// Whose data changed, if that could be read.
    pub offender_id: Option<OffenderId>,
    /// Whether the row was claimed before. False if that could not be read.
    pub failed_update: bool,
    /// What is wrong. It names the field, but never quotes its value.
    pub problem: String,
}

impl ClaimedRow {
    /// Reads the body of a successful answer from `nextUpdate`. `None` means that there are no rows. A body that is not
    /// a JSON object is an error, since it is not a row.
    pub fn from_json(body: &[u8]) -> Result<Option<Self>, NotAnObject> {
        let fields = match Fields::of(body, FIELDS) {
            Ok(fields) => fields,
            Err(NotAnObject::Empty) => return Ok(None),
            Err(problem) => return Err(problem),
        };
        let row = OffenderUpdate::from_fields(&fields).map_or_else(
            |problem| {
                Self::Unreadable(UnreadableUpdate {
                    offender_delta_id: fields.integer("offenderDeltaId").ok().map(OffenderDeltaId),
                    offender_id: fields.integer("offenderId").ok().map(OffenderId),
                    failed_update: fields.boolean("failedUpdate").unwrap_or(false),
                    problem,
                })
            },
            Self::Update,
        );
        Ok(Some(row))
    }

    /// Whose data changed, if that could be read.
    pub fn offender_id(&self) -> Option<OffenderId> {
        match self {
            Self::Update(update) => Some(update.offender_id),
            Self::Unreadable(row) => row.offender_id,
        }
    }

    /// Whether the row was claimed before, and its lock expired.
    pub fn failed_update(&self) -> bool {
        match self {
            Self::Update(update) => update.failed_update,
            Self::Unreadable(row) => row.failed_update,
        }
    }

    /// The identity of the change, if every part of it could be read.
    pub fn change_id(&self) -> Option<ChangeId> {
        match self {
            Self::Update(update) => Some(update.change_id()),
            Self::Unreadable(_) => None,
        }
    }

    /// The row's id, if it could be read.
    pub fn offender_delta_id(&self) -> Option<OffenderDeltaId> {
        match self {
            Self::Update(update) => Some(update.offender_delta_id),
            Self::Unreadable(row) => row.offender_delta_id,
        }
    }
}

impl OffenderUpdate {
    /// The identity of the change: the same each time the row is claimed.
    pub fn change_id(&self) -> ChangeId {
        let record = self.source_record_id.map(|id| id.to_string());
        // No part can contain a line break.
        let name = format!(
            "{}\n{}\n{}\n{}\n{}\n{}",
            self.offender_delta_id.0,
            self.offender_id.0,
            self.source_table,
            record.unwrap_or_default(),
            self.action,
            self.date_changed,
        );
        ChangeId(Uuid::new_v5(&CHANGES, name.as_bytes()))
    }

    fn from_fields(fields: &Fields) -> Result<Self, String> {
        Ok(Self {
            offender_delta_id: OffenderDeltaId(fields.integer("offenderDeltaId")?),
            offender_id: OffenderId(fields.integer("offenderId")?),
            date_changed: fields
                .text("dateChanged")?
                .parse()
                .map_err(|problem| format!("dateChanged {problem}"))?,
            action: short_text(fields, "action")?,
            source_table: short_text(fields, "sourceTable")?,
            source_record_id: match fields.present("sourceRecordId") {
                None => None,
                Some(_) => Some(fields.integer("sourceRecordId")?),
            },
            failed_update: fields.boolean("failedUpdate")?,
        })
    }
}

/// Reads text that goes into the log and into messages. SNS accepts some control characters, but delivers none of them.
fn short_text(fields: &Fields, field: &str) -> Result<String, String> {
    let text = fields.text(field)?;
    if text.len() > LONGEST_TEXT {
        Err(format!("{field} is too long"))
    } else if text.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        Err(format!("{field} has a control character"))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ROW: &str = r#"{"offenderId":102,"dateChanged":"2020-07-19T13:56:43.120","action":"UPSERT","offenderDeltaId":5,
        "sourceTable":"ALIAS","sourceRecordId":345,"status":"INPROGRESS","failedUpdate":true,"new":[1]}"#;

    fn read(json: &str) -> ClaimedRow {
        ClaimedRow::from_json(json.as_bytes()).unwrap().unwrap()
    }

    fn read_with(field: &str, value: Option<Value>) -> ClaimedRow {
        let mut row: serde_json::Map<String, Value> = serde_json::from_str(ROW).unwrap();
        match value {
            Some(value) => row.insert(field.to_owned(), value),
            None => row.remove(field),
        };
        read(&serde_json::to_string(&row).unwrap())
    }

    #[test]
    fn a_row_is_read_whole_and_unknown_fields_are_ignored() {
        let ClaimedRow::Update(row) = read(ROW) else {
            panic!("unreadable")
        };
        assert_eq!(row.offender_id, OffenderId(102));
        assert_eq!(row.offender_delta_id, OffenderDeltaId(5));
        assert_eq!(row.date_changed.to_string(), "2020-07-19T13:56:43.12");
        assert_eq!(
            (row.action.as_str(), row.source_table.as_str()),
            ("UPSERT", "ALIAS")
        );
        assert_eq!((row.source_record_id, row.failed_update), (Some(345), true));
    }

    #[test]
    fn absent_source_record_and_failed_update_are_null_and_false() {
        for value in [None, Some(Value::Null)] {
            let ClaimedRow::Update(row) = read_with("sourceRecordId", value.clone()) else {
                panic!("unreadable")
            };
            assert_eq!(row.source_record_id, None);
            let ClaimedRow::Update(row) = read_with("failedUpdate", value) else {
                panic!("unreadable")
            };
            assert!(!row.failed_update);
        }
    }

    #[test]
    fn a_bad_field_is_named_and_the_others_are_kept() {
        let cases = [
            ("sourceTable", Some(Value::Null), "sourceTable is missing"),
            ("sourceTable", Some("".into()), "sourceTable is empty"),
            ("sourceTable", Some(7.into()), "sourceTable is not a string"),
            (
                "sourceTable",
                Some("T".repeat(121).into()),
                "sourceTable is too long",
            ),
            (
                "sourceTable",
                Some("AL\tIAS".into()),
                "sourceTable has a control character",
            ),
            (
                "action",
                Some("UPSERT\n".into()),
                "action has a control character",
            ),
            ("action", None, "action is missing"),
            (
                "dateChanged",
                Some("2021-02-30T10:00:00".into()),
                "dateChanged is not an existing local date-time of the form yyyy-MM-ddTHH:mm:ss",
            ),
            (
                "sourceRecordId",
                Some("X123456".into()),
                "sourceRecordId is not a 64-bit whole number",
            ),
            (
                "sourceRecordId",
                Some(1.5.into()),
                "sourceRecordId is not a 64-bit whole number",
            ),
        ];
        for (field, value, problem) in cases {
            let expected = UnreadableUpdate {
                offender_delta_id: Some(OffenderDeltaId(5)),
                offender_id: Some(OffenderId(102)),
                failed_update: true,
                problem: problem.to_owned(),
            };
            assert_eq!(read_with(field, value), ClaimedRow::Unreadable(expected));
        }
        let huge = serde_json::from_str("12345678901234567890").unwrap();
        let ClaimedRow::Unreadable(row) = read_with("offenderDeltaId", Some(huge)) else {
            panic!("read")
        };
        assert_eq!(row.offender_delta_id, None);
    }

    #[test]
    fn only_an_object_is_a_row() {
        for body in ["", "null", "\u{feff}", "  "] {
            assert_eq!(ClaimedRow::from_json(body.as_bytes()), Ok(None), "{body}");
        }
        for body in ["[]", "[1]", "{", "\"x\"", "<html>", &ROW[..60]] {
            assert!(ClaimedRow::from_json(body.as_bytes()).is_err(), "{body}");
        }
        assert!(ClaimedRow::from_json(&[0xff, 0xfe]).is_err());
        assert!(matches!(read("{}"), ClaimedRow::Unreadable(_)));
    }

    #[test]
    fn each_part_of_a_change_changes_its_id() {
        let id = |field: &str, value: Value| read_with(field, Some(value)).change_id().unwrap();
        let same = id("failedUpdate", false.into());
        assert_eq!(same, read(ROW).change_id().unwrap());
        for (field, value) in [
            ("offenderDeltaId", Value::from(6)),
            ("offenderId", 103.into()),
            ("sourceTable", "OFFENDER".into()),
            ("sourceRecordId", 346.into()),
            ("sourceRecordId", Value::Null),
            ("action", "DELETE".into()),
            ("dateChanged", "2020-07-19T13:56:43.121".into()),
        ] {
            assert_ne!(id(field, value), same, "{field}");
        }
    }
}
