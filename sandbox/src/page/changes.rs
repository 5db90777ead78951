//! What the page can change about a person in the mini-Delius, and what each change raises: a table of forms.
//!
//! The events are written here again, and not read from the service, so that a test can compare the two.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::civil::Date;
use rusqlite::{ToSql, params_from_iter};

use crate::delius::{Delius, text};

/// Longer than any name in Delius.
pub(super) const MOST_CHARACTERS: usize = 100;

pub(super) type Values = BTreeMap<String, String>;

/// A change made by one statement, and so by the triggers of one table.
pub(super) struct Change {
    /// The name in URLs.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What is unusual about it.
    pub(super) hint: &'static str,
    /// The events that the service publishes for it.
    pub(super) events: &'static [&'static str],
    pub(super) fields: &'static [Field],
    /// With `:offender` and a parameter for each field.
    sql: &'static str,
}

pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
    /// The SQL for the initial value, for offender `?1`.
    initial: &'static str,
}

pub(super) enum Kind {
    Text,
    /// May be left empty.
    OptionalText,
    Date,
    Score,
    /// One of the records that this SQL finds for offender `?1`: id and label.
    Choice(&'static str),
}

const fn field(
    name: &'static str,
    label: &'static str,
    kind: Kind,
    initial: &'static str,
) -> Field {
    Field {
        name,
        label,
        kind,
        initial,
    }
}

const TODAY: &str = "SELECT TODAY FROM LONDON_NOW";
const REGISTRATIONS: &str =
    "SELECT REGISTRATION_ID, REGISTER_TYPE || ' of ' || REGISTRATION_DATE FROM REGISTRATION
    WHERE OFFENDER_ID = ?1 ORDER BY REGISTRATION_ID DESC";
const CONVICTIONS: &str = "SELECT EVENT_ID, 'Conviction ' || EVENT_ID || coalesce(' of ' || CONVICTION_DATE, '') FROM EVENT
    WHERE OFFENDER_ID = ?1 ORDER BY EVENT_ID DESC";
const SENTENCES: &str = "SELECT DISPOSAL_ID, DISPOSAL_TYPE || ' of ' || DISPOSAL_DATE FROM DISPOSAL JOIN EVENT USING (EVENT_ID)
    WHERE OFFENDER_ID = ?1 ORDER BY DISPOSAL_ID DESC";
/// A limit, so that the page stays small with many officers. The current manager is left out.
const OTHER_OFFICERS: &str = "SELECT OFFICER_ID, FORENAME || ' ' || SURNAME FROM OFFICER WHERE OFFICER_ID NOT IN
    (SELECT OFFICER_ID FROM OFFENDER_MANAGER WHERE OFFENDER_ID = ?1 AND ACTIVE_FLAG = 1) ORDER BY OFFICER_ID LIMIT 50";

pub(super) const CHANGES: &[Change] = &[
    Change {
        name: "details",
        title: "Details",
        hint: "",
        events: &["OFFENDER_CHANGED", "OFFENDER_DETAILS_CHANGED"],
        fields: &[
            field("first_name", "First name", Kind::Text, "SELECT FIRST_NAME FROM OFFENDER WHERE OFFENDER_ID = ?1"),
            field("surname", "Last name", Kind::Text, "SELECT SURNAME FROM OFFENDER WHERE OFFENDER_ID = ?1"),
            field("date_of_birth", "Date of birth", Kind::Date, "SELECT DATE_OF_BIRTH FROM OFFENDER WHERE OFFENDER_ID = ?1"),
            field("noms_number", "Prison number (optional)", Kind::OptionalText, "SELECT NOMS_NUMBER FROM OFFENDER WHERE OFFENDER_ID = ?1"),
        ],
        sql: "UPDATE OFFENDER SET FIRST_NAME = :first_name, SURNAME = :surname, DATE_OF_BIRTH = :date_of_birth,
              NOMS_NUMBER = :noms_number WHERE OFFENDER_ID = :offender",
    },
    Change {
        name: "alias",
        title: "Alias",
        hint: "",
        events: &["OFFENDER_CHANGED", "OFFENDER_ALIAS_CHANGED"],
        fields: &[
            field("first_name", "First name", Kind::Text, "SELECT 'Also'"),
            field("surname", "Last name", Kind::Text, "SELECT 'Known'"),
        ],
        sql: "INSERT INTO ALIAS (OFFENDER_ID, FIRST_NAME, SURNAME) VALUES (:offender, :first_name, :surname)",
    },
    Change {
        name: "address",
        title: "Address",
        hint: "",
        events: &["OFFENDER_CHANGED", "OFFENDER_ADDRESS_CHANGED"],
        fields: &[
            field("street", "Street", Kind::Text, "SELECT 'Fictitious Way'"),
            field("town", "Town or city", Kind::Text, "SELECT 'Newport'"),
            field("postcode", "Postcode (optional)", Kind::OptionalText, "SELECT 'NP1 0AA'"),
        ],
        sql: "INSERT INTO OFFENDER_ADDRESS (OFFENDER_ID, STREET_NAME, TOWN_CITY, POSTCODE, START_DATE)
              VALUES (:offender, :street, :town, :postcode, (SELECT TODAY FROM LONDON_NOW))",
    },
    Change {
        name: "manager",
        title: "Manager",
        hint: "",
        events: &["OFFENDER_CHANGED", "OFFENDER_MANAGER_CHANGED"],
        fields: &[field("officer", "New manager", Kind::Choice(OTHER_OFFICERS), "SELECT NULL")],
        sql: "UPDATE OFFENDER_MANAGER SET OFFICER_ID = :officer WHERE OFFENDER_ID = :offender AND ACTIVE_FLAG = 1",
    },
    Change {
        name: "officer",
        title: "Name of the manager",
        hint: "This changes every offender whom the officer manages. Each gets a row and events.",
        events: &["OFFENDER_CHANGED", "OFFENDER_OFFICER_CHANGED"],
        fields: &[
            field("forename", "First name", Kind::Text,
                "SELECT FORENAME FROM OFFICER JOIN OFFENDER_MANAGER USING (OFFICER_ID) WHERE OFFENDER_ID = ?1 AND ACTIVE_FLAG = 1"),
            field("surname", "Last name", Kind::Text,
                "SELECT SURNAME FROM OFFICER JOIN OFFENDER_MANAGER USING (OFFICER_ID) WHERE OFFENDER_ID = ?1 AND ACTIVE_FLAG = 1"),
        ],
        sql: "UPDATE OFFICER SET FORENAME = :forename, SURNAME = :surname WHERE OFFICER_ID =
              (SELECT OFFICER_ID FROM OFFENDER_MANAGER WHERE OFFENDER_ID = :offender AND ACTIVE_FLAG = 1)",
    },
    Change {
        name: "registration",
        title: "Registration",
        hint: "",
        events: &["OFFENDER_REGISTRATION_CHANGED"],
        fields: &[
            field("type", "Type", Kind::Text, "SELECT 'RMRH'"),
            field("date", "Date", Kind::Date, TODAY),
        ],
        sql: "INSERT INTO REGISTRATION (OFFENDER_ID, REGISTER_TYPE, REGISTRATION_DATE) VALUES (:offender, :type, :date)",
    },
    Change {
        name: "deregistration",
        title: "Deregistration",
        hint: "",
        events: &["OFFENDER_REGISTRATION_DEREGISTERED"],
        fields: &[
            field("registration", "Registration", Kind::Choice(REGISTRATIONS), "SELECT NULL"),
            field("date", "Date", Kind::Date, TODAY),
        ],
        sql: "INSERT INTO DEREGISTRATION (REGISTRATION_ID, DEREGISTRATION_DATE)
              SELECT REGISTRATION_ID, :date FROM REGISTRATION WHERE REGISTRATION_ID = :registration AND OFFENDER_ID = :offender",
    },
    Change {
        name: "registration-deletion",
        title: "Deletion of a registration",
        hint: "",
        events: &["OFFENDER_REGISTRATION_DELETED"],
        fields: &[field("registration", "Registration", Kind::Choice(REGISTRATIONS), "SELECT NULL")],
        sql: "DELETE FROM REGISTRATION WHERE REGISTRATION_ID = :registration AND OFFENDER_ID = :offender",
    },
    Change {
        name: "conviction",
        title: "Conviction",
        hint: "",
        events: &["CONVICTION_CHANGED"],
        fields: &[field("date", "Date of conviction", Kind::Date, TODAY)],
        sql: "INSERT INTO EVENT (OFFENDER_ID, REFERRAL_DATE, CONVICTION_DATE) VALUES (:offender, :date, :date)",
    },
    Change {
        name: "sentence",
        title: "Sentence",
        hint: "",
        events: &["SENTENCE_CHANGED"],
        fields: &[
            field("conviction", "Conviction", Kind::Choice(CONVICTIONS), "SELECT NULL"),
            field("type", "Sentence", Kind::Text, "SELECT 'ORA Community Order'"),
            field("date", "Date", Kind::Date, TODAY),
        ],
        sql: "INSERT INTO DISPOSAL (EVENT_ID, DISPOSAL_TYPE, DISPOSAL_DATE)
              SELECT EVENT_ID, :type, :date FROM EVENT WHERE EVENT_ID = :conviction AND OFFENDER_ID = :offender",
    },
    Change {
        name: "requirement",
        title: "Requirement of a sentence",
        hint: "",
        events: &["SENTENCE_ORDER_REQUIREMENT_CHANGED"],
        fields: &[
            field("sentence", "Sentence", Kind::Choice(SENTENCES), "SELECT NULL"),
            field("type", "Requirement", Kind::Text, "SELECT 'Unpaid Work'"),
        ],
        sql: "INSERT INTO RQMNT (DISPOSAL_ID, RQMNT_TYPE, START_DATE)
              SELECT DISPOSAL_ID, :type, (SELECT TODAY FROM LONDON_NOW) FROM DISPOSAL JOIN EVENT USING (EVENT_ID)
              WHERE DISPOSAL_ID = :sentence AND OFFENDER_ID = :offender",
    },
    Change {
        name: "ogrs",
        title: "OGRS assessment",
        hint: "",
        events: &["OFFENDER_OGRS_ASSESSMENT_CHANGED"],
        fields: &[
            field("one_year", "Score after one year, 0 to 100", Kind::Score, "SELECT 30"),
            field("two_years", "Score after two years, 0 to 100", Kind::Score, "SELECT 45"),
        ],
        sql: "INSERT INTO OGRS_ASSESSMENT (OFFENDER_ID, ASSESSMENT_DATE, OGRS3_SCORE_1, OGRS3_SCORE_2)
              VALUES (:offender, (SELECT TODAY FROM LONDON_NOW), :one_year, :two_years)",
    },
    Change {
        name: "tier",
        title: "Management tier",
        hint: "",
        events: &["OFFENDER_MANAGEMENT_TIER_CALCULATION_REQUIRED"],
        fields: &[field("reason", "Reason", Kind::Text, "SELECT 'Review'")],
        sql: "INSERT INTO MANAGEMENT_TIER_EVENT (OFFENDER_ID, TIER_CHANGE_REASON, TIER_CHANGE_DATE)
              VALUES (:offender, :reason, (SELECT TODAY FROM LONDON_NOW))",
    },
    Change {
        name: "merge",
        title: "Merge with another record",
        hint: "",
        events: &["OFFENDER_MERGED"],
        fields: &[field("merged_from", "CRN of the other record", Kind::Text, "SELECT 'X999999'")],
        sql: "INSERT INTO MERGE_HISTORY (OFFENDER_ID, MERGED_FROM_CRN, MERGED_TO_CRN, MERGED_DATE)
              SELECT OFFENDER_ID, :merged_from, CRN, (SELECT TODAY FROM LONDON_NOW) FROM OFFENDER WHERE OFFENDER_ID = :offender",
    },
    Change {
        name: "contact",
        title: "Contact",
        hint: "This table has no separate event type, so the type is the table’s name followed by _CHANGED.",
        events: &["CONTACT_CHANGED"],
        fields: &[field("type", "Contact", Kind::Text, "SELECT 'Telephone call'")],
        sql: "INSERT INTO CONTACT (OFFENDER_ID, CONTACT_TYPE, CONTACT_DATE) VALUES (:offender, :type, (SELECT TODAY FROM LONDON_NOW))",
    },
];

impl Change {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        CHANGES.iter().find(|change| change.name == name)
    }

    pub(super) fn initial(&self, delius: &Delius, offender: i64) -> Result<Values> {
        let connection = delius.connection();
        let values = self.fields.iter().map(|field| {
            let sql = format!("SELECT ({})", field.initial);
            let mut statement = connection.prepare_cached(&sql)?;
            let parameters = vec![offender; statement.parameter_count()];
            let value = statement.query_row(params_from_iter(parameters), |row| text(row, 0))?;
            Ok((field.name.to_owned(), value.unwrap_or_default()))
        });
        values.collect()
    }

    pub(super) fn faults(&self, values: &Values) -> Vec<(&'static Field, String)> {
        let fault = |field: &'static Field| {
            let value = values.get(field.name).map_or("", String::as_str);
            Some((field, field.fault(value)?))
        };
        self.fields.iter().filter_map(fault).collect()
    }

    /// Makes the change, which fires the triggers. `false` if the record does not exist.
    pub(super) fn make(&self, delius: &Delius, offender: i64, values: &Values) -> Result<bool> {
        let names: Vec<String> = self
            .fields
            .iter()
            .map(|field| format!(":{}", field.name))
            .collect();
        let values: Vec<Option<&str>> = self
            .fields
            .iter()
            .map(|field| {
                values
                    .get(field.name)
                    .map(|value| value.trim())
                    .filter(|value| !value.is_empty())
            })
            .collect();
        let mut parameters: Vec<(&str, &dyn ToSql)> = vec![(":offender", &offender)];
        parameters.extend(
            names
                .iter()
                .zip(&values)
                .map(|(name, value)| (name.as_str(), value as &dyn ToSql)),
        );
        let connection = delius.connection();
        Ok(connection.prepare_cached(self.sql)?.execute(&*parameters)? > 0)
    }
}

impl Field {
    /// The records to choose from, by id. `None` if the field is typed.
    pub(super) fn choices(
        &self,
        delius: &Delius,
        offender: i64,
    ) -> Result<Option<Vec<(String, String)>>> {
        let Kind::Choice(sql) = self.kind else {
            return Ok(None);
        };
        let connection = delius.connection();
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([offender], |row| {
            Ok((
                row.get::<_, i64>(0)?.to_string(),
                text(row, 1)?.unwrap_or_default(),
            ))
        })?;
        Ok(Some(rows.collect::<rusqlite::Result<_>>()?))
    }

    fn fault(&self, value: &str) -> Option<String> {
        let (value, label) = (value.trim(), self.label);
        let good = match self.kind {
            _ if value.chars().count() > MOST_CHARACTERS => {
                return Some(format!(
                    "{label} must have {MOST_CHARACTERS} characters or fewer"
                ));
            }
            Kind::OptionalText => true,
            _ if value.is_empty() => return Some(format!("Enter {}", in_a_sentence(label))),
            Kind::Text => true,
            Kind::Date => value.parse::<Date>().is_ok(),
            Kind::Score => value.parse::<u8>().is_ok_and(|score| score <= 100),
            Kind::Choice(_) => value.parse::<i64>().is_ok(),
        };
        let wanted = match self.kind {
            Kind::Date => "a real date, such as 1980-02-29",
            Kind::Score => "a whole number from 0 to 100",
            _ => "in the list",
        };
        (!good).then(|| format!("{label} must be {wanted}"))
    }
}

/// A label within a sentence: `First name` becomes `first name`, and `CRN` stays.
fn in_a_sentence(label: &str) -> String {
    let mut letters = label.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &label[first.len_utf8()..])
        }
        _ => label.to_owned(),
    }
}
