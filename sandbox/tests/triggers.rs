//! The mini-Delius: what its triggers write.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use sandbox::delius::Status;
use sandbox::{Delius, Timings};

fn delius() -> Result<Delius> {
    Delius::in_memory(Timings::default())
}

type Written = (i64, String, Option<String>, Option<i64>);

/// What a change writes, as (offender, action, table, record).
fn written(delius: &Delius, sql: &str) -> Result<Vec<Written>> {
    let last = delius
        .updates()?
        .last()
        .map_or(0, |row| row.offender_delta_id);
    delius.execute(sql).with_context(|| sql.to_owned())?;
    let rows = delius
        .updates()?
        .into_iter()
        .filter(|row| row.offender_delta_id > last);
    Ok(rows
        .map(|row| {
            assert_eq!(row.status, Status::Created);
            (
                row.offender_id,
                row.action,
                row.source_table,
                row.source_record_id,
            )
        })
        .collect())
}

#[test]
fn the_first_people_create_no_rows() -> Result<()> {
    assert_eq!(delius()?.count_updates()?, 0);
    let named = delius()?.identifiers(1)?.context("offender 1")?;
    assert_eq!(
        (&*named.crn, named.noms_number.as_deref()),
        ("X000001", Some("A0001AA"))
    );
    assert_eq!(
        delius()?.identifiers(4)?.context("offender 4")?.noms_number,
        None
    );
    assert_eq!(delius()?.identifiers(99)?, None);
    Ok(())
}

/// A table, its columns except the key, values for them, and the offender that they belong to.
const TABLES: [(&str, &str, &str, i64); 13] = [
    (
        "OFFENDER",
        "CRN, FIRST_NAME, SURNAME, DATE_OF_BIRTH",
        "'X9', 'A', 'B', '2000-01-01'",
        900,
    ),
    (
        "ALIAS",
        "OFFENDER_ID, FIRST_NAME, SURNAME",
        "2, 'A', 'B'",
        2,
    ),
    (
        "OFFENDER_ADDRESS",
        "OFFENDER_ID, STREET_NAME, TOWN_CITY, START_DATE",
        "2, 'A', 'B', 'C'",
        2,
    ),
    (
        "OFFENDER_MANAGER",
        "OFFENDER_ID, OFFICER_ID, ALLOCATION_DATE",
        "2, 77, 'C'",
        2,
    ),
    (
        "REGISTRATION",
        "OFFENDER_ID, REGISTER_TYPE, REGISTRATION_DATE",
        "2, 'A', 'B'",
        2,
    ),
    (
        "DEREGISTRATION",
        "REGISTRATION_ID, DEREGISTRATION_DATE",
        "2, 'A'",
        3,
    ),
    ("EVENT", "OFFENDER_ID, REFERRAL_DATE", "2, 'A'", 2),
    (
        "DISPOSAL",
        "EVENT_ID, DISPOSAL_TYPE, DISPOSAL_DATE",
        "3, 'A', 'B'",
        4,
    ),
    (
        "RQMNT",
        "DISPOSAL_ID, RQMNT_TYPE, START_DATE",
        "2, 'A', 'B'",
        2,
    ),
    (
        "OGRS_ASSESSMENT",
        "OFFENDER_ID, ASSESSMENT_DATE",
        "2, 'A'",
        2,
    ),
    (
        "MERGE_HISTORY",
        "OFFENDER_ID, MERGED_FROM_CRN, MERGED_TO_CRN, MERGED_DATE",
        "2, 'A', 'B', 'C'",
        2,
    ),
    (
        "MANAGEMENT_TIER_EVENT",
        "OFFENDER_ID, TIER_CHANGE_REASON, TIER_CHANGE_DATE",
        "2, 'A', 'B'",
        2,
    ),
    (
        "CONTACT",
        "OFFENDER_ID, CONTACT_TYPE, CONTACT_DATE",
        "2, 'A', 'B'",
        2,
    ),
];

#[test]
fn each_table_writes_a_row_for_each_insert_update_and_delete() -> Result<()> {
    let delius = delius()?;
    for (table, columns, values, offender) in TABLES {
        let key = format!("{table}_ID");
        let row = |action: &str| {
            vec![(
                offender,
                action.to_owned(),
                Some(table.to_owned()),
                Some(900),
            )]
        };
        let insert = format!("INSERT INTO {table} ({key}, {columns}) VALUES (900, {values})");
        assert_eq!(written(&delius, &insert)?, row("UPSERT"));
        assert_eq!(
            written(
                &delius,
                &format!("UPDATE {table} SET {key} = {key} WHERE {key} = 900")
            )?,
            row("UPSERT")
        );
        assert_eq!(
            written(&delius, &format!("DELETE FROM {table} WHERE {key} = 900"))?,
            row("DELETE")
        );
    }
    Ok(())
}

#[test]
fn an_officers_change_reaches_each_offender_managed_at_present() -> Result<()> {
    let delius = delius()?;
    let rows = |action: &str, offenders: &[i64], officer| -> Vec<Written> {
        offenders
            .iter()
            .map(|id| (*id, action.into(), Some("OFFICER".into()), Some(officer)))
            .collect()
    };
    assert_eq!(
        written(
            &delius,
            "UPDATE OFFICER SET SURNAME = 'New' WHERE OFFICER_ID = 1"
        )?,
        rows("UPSERT", &[1, 2], 1)
    );
    assert_eq!(
        written(&delius, "DELETE FROM OFFICER WHERE OFFICER_ID = 2")?,
        rows("DELETE", &[3, 4, 5], 2)
    );
    assert_eq!(
        written(
            &delius,
            "INSERT INTO OFFICER VALUES (9, 'N', 'New', 'Officer')"
        )?,
        []
    );
    Ok(())
}

#[test]
fn date_changed_is_the_time_in_london() -> Result<()> {
    let schema = include_str!("../src/delius/schema.sql");
    let view = schema
        .split("CREATE VIEW LONDON_NOW")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .context("view")?;
    for (utc, london) in [
        ("2024-02-29 12:34:56.780", "2024-02-29T12:34:56.78"),
        ("2026-03-29 00:59:59.999", "2026-03-29T00:59:59.999"),
        ("2026-03-29 01:00:00.000", "2026-03-29T02:00:00"),
        ("2026-10-25 00:59:59.999", "2026-10-25T01:59:59.999"),
        ("2026-10-25 01:00:00.000", "2026-10-25T01:00:00"),
        // Change-over on the last possible day and on the earliest.
        ("2024-03-31 00:59:59.999", "2024-03-31T00:59:59.999"),
        ("2024-03-31 01:00:00.000", "2024-03-31T02:00:00"),
        ("2027-10-31 00:59:59.000", "2027-10-31T01:59:59"),
        ("2027-10-31 01:00:00.000", "2027-10-31T01:00:00"),
        ("2026-06-30 23:30:00.001", "2026-07-01T00:30:00.001"),
        ("2026-12-31 23:59:59.999", "2026-12-31T23:59:59.999"),
        // The fraction does not end in a zero.
        ("2026-01-10 10:20:30.500", "2026-01-10T10:20:30.5"),
        ("2026-01-10 10:20:00.000", "2026-01-10T10:20:00"),
    ] {
        let delius = delius()?;
        let fixed = view.replace("'now'", &format!("'{utc}'"));
        delius.execute(&format!(
            "DROP VIEW LONDON_NOW; CREATE VIEW LONDON_NOW{fixed}"
        ))?;
        delius.execute("UPDATE OFFENDER SET SURNAME = 'Changed' WHERE OFFENDER_ID = 1")?;
        assert_eq!(delius.updates()?[0].date_changed, london);
    }
    Ok(())
}

#[test]
fn random_changes_fire_the_triggers() -> Result<()> {
    let delius = delius()?;
    for _ in 0..500 {
        let before = delius.count_updates()?;
        let words = delius.random_change()?;
        assert!(delius.count_updates()? > before, "{words}");
    }
    let tables: BTreeSet<_> = delius
        .updates()?
        .into_iter()
        .map(|row| row.source_table)
        .collect();
    assert_eq!(tables.len(), 14);
    Ok(())
}
