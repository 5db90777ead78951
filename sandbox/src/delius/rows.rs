//! The rows of `OFFENDER_DELTA`, and the identifiers of an offender.

use jiff::civil::DateTime;
use rusqlite::types::ValueRef;
use rusqlite::{Row, RowIndex};
use serde::Serialize;

/// When a row is served, and how long a lock lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// The age from which a new row is served, in seconds since its last update.
    pub serve_after_seconds: i64,
    /// The age of a lock from which its row is served again, as a failed update.
    pub lock_expiry_seconds: i64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            serve_after_seconds: 2,
            lock_expiry_seconds: 600,
        }
    }
}

/// The status of a row of `OFFENDER_DELTA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Not served yet.
    Created,
    /// Served, and locked to the caller.
    InProgress,
    /// Marked as failed, and never served again.
    Failed,
    /// Null, or a word that community-api does not know. Never served.
    None,
}

impl Status {
    pub(super) fn as_text(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::InProgress => "INPROGRESS",
            Self::Failed => "FAILED",
            Self::None => "",
        }
    }

    fn from_text(text: Option<&str>) -> Self {
        match text {
            Some("CREATED") => Self::Created,
            Some("INPROGRESS") => Self::InProgress,
            Some("FAILED") => Self::Failed,
            _ => Self::None,
        }
    }
}

/// A row of `OFFENDER_DELTA`. As JSON it is the answer from `nextUpdate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRow {
    /// The offender whose data changed.
    pub offender_id: i64,
    /// When it changed, in London time, without a zone.
    pub date_changed: String,
    /// `UPSERT` or `DELETE`.
    pub action: String,
    /// The row's primary key.
    pub offender_delta_id: i64,
    /// The table that was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_table: Option<String>,
    /// The primary key within that table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_record_id: Option<i64>,
    /// The row's status.
    pub status: Status,
    /// An earlier lock had expired when this one was set.
    pub failed_update: bool,
    /// When the row was added, in Unix seconds.
    #[serde(skip)]
    pub created: i64,
    /// When its status last changed, in Unix seconds. It is the version of the optimistic lock.
    #[serde(skip)]
    pub last_updated: i64,
}

impl UpdateRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            offender_id: row.get("OFFENDER_ID")?,
            date_changed: printed(text(row, "DATE_CHANGED")?.unwrap_or_default()),
            action: text(row, "ACTION")?.unwrap_or_default(),
            offender_delta_id: row.get("OFFENDER_DELTA_ID")?,
            source_table: text(row, "SOURCE_TABLE")?,
            source_record_id: row.get("SOURCE_RECORD_ID")?,
            status: Status::from_text(text(row, "STATUS")?.as_deref()),
            failed_update: false,
            created: row.get("CREATED_DATETIME")?,
            last_updated: row.get("LAST_UPDATED_DATETIME")?,
        })
    }
}

/// A time as community-api prints it: with seconds, and without trailing zeros. Other text is kept as it was typed.
fn printed(typed: String) -> String {
    let time = typed.trim().parse::<DateTime>();
    time.map_or(typed, |time| {
        time.strftime("%Y-%m-%dT%H:%M:%S%.f").to_string()
    })
}

/// Any cell as text. As in Oracle, empty text is null.
pub(crate) fn text(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<String>> {
    let text = match row.get_ref(column)? {
        ValueRef::Null => return Ok(None),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A row to be added to `OFFENDER_DELTA` as given, without triggers.
#[derive(Clone, Debug)]
pub struct NewUpdate {
    /// The offender, who need not exist.
    pub offender_id: i64,
    /// London local time. It is not checked, so that a test can write nonsense.
    pub date_changed: String,
    /// `UPSERT` or `DELETE`. The table refuses anything else.
    pub action: String,
    /// The table that was changed.
    pub source_table: Option<String>,
    /// The primary key within that table.
    pub source_record_id: Option<i64>,
}

impl Default for NewUpdate {
    fn default() -> Self {
        Self {
            offender_id: 1,
            date_changed: "2020-07-19T13:56:43".into(),
            action: "UPSERT".into(),
            source_table: Some("OFFENDER".into()),
            source_record_id: Some(1),
        }
    }
}

/// A row that could be locked when it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub(super) offender_delta_id: i64,
    pub(super) version: i64,
    pub(super) status: Status,
}

impl Candidate {
    /// The row's primary key.
    pub fn offender_delta_id(&self) -> i64 {
        self.offender_delta_id
    }

    /// Whether the row is served because an earlier lock has expired.
    pub fn failed_update(&self) -> bool {
        self.status == Status::InProgress
    }
}

/// The identifiers of an offender. As JSON they are the `primaryIdentifiers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identifiers {
    /// The primary key of the offender.
    #[serde(skip)]
    pub offender_id: i64,
    /// The case reference number.
    pub crn: String,
    /// The number in the Police National Computer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pnc_number: Option<String>,
    /// The number of the Criminal Records Office.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cro_number: Option<String>,
    /// The National Insurance number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ni_number: Option<String>,
    /// The prison number, if the offender has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noms_number: Option<String>,
    /// The immigration number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immigration_number: Option<String>,
    /// The latest booking in a prison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_recent_prisoner_number: Option<String>,
    /// Identifiers of other kinds. In the JSON they are outside the `primaryIdentifiers`.
    #[serde(skip)]
    pub additional: Vec<AdditionalIdentifier>,
}

impl Identifiers {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            offender_id: row.get("OFFENDER_ID")?,
            crn: text(row, "CRN")?.unwrap_or_default(),
            pnc_number: text(row, "PNC_NUMBER")?,
            cro_number: text(row, "CRO_NUMBER")?,
            ni_number: text(row, "NI_NUMBER")?,
            noms_number: text(row, "NOMS_NUMBER")?,
            immigration_number: text(row, "IMMIGRATION_NUMBER")?,
            most_recent_prisoner_number: text(row, "MOST_RECENT_PRISONER_NUMBER")?,
            additional: Vec::new(),
        })
    }
}

/// An identifier of another kind than the primary ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalIdentifier {
    /// Its primary key.
    pub additional_identifier_id: i64,
    /// The identifier itself.
    pub value: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: IdentifierKind,
}

/// The kind of an additional identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentifierKind {
    /// Delius' code for the kind.
    pub code: String,
    /// The same in words.
    pub description: String,
}

impl AdditionalIdentifier {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            additional_identifier_id: row.get("ADDITIONAL_IDENTIFIER_ID")?,
            value: text(row, "IDENTIFIER")?.unwrap_or_default(),
            kind: IdentifierKind {
                code: text(row, "TYPE_CODE")?.unwrap_or_default(),
                description: text(row, "TYPE_DESCRIPTION")?.unwrap_or_default(),
            },
        })
    }
}
