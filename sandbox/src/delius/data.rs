//! Fictional data for the mini-Delius: more people, a backlog, and random changes.

use anyhow::{Result, bail};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params, params_from_iter};

use super::Delius;

/// The record ids of a backlog start here, above every real record of the mini-Delius.
const FIRST_BACKLOG_RECORD: i64 = 1_000_000_000;
/// How much older a seeded backlog is than it must be to be claimed at once.
const BACKLOG_AGE_SECONDS: i64 = 60;
/// The number of offenders per synthetic officer.
const CASELOAD: i64 = 40;

/// Each table with an event, and one (the last) without a separate event type.
const SOURCE_TABLES: [&str; 14] = [
    "OFFENDER",
    "ALIAS",
    "OFFENDER_ADDRESS",
    "OFFENDER_MANAGER",
    "OFFICER",
    "REGISTRATION",
    "DEREGISTRATION",
    "EVENT",
    "DISPOSAL",
    "RQMNT",
    "OGRS_ASSESSMENT",
    "MERGE_HISTORY",
    "MANAGEMENT_TIER_EVENT",
    "CONTACT",
];

/// Changes to an offender (`?1`), in words and in SQL. Not every change is possible for every offender.
const CHANGES: [(&str, &str); 20] = [
    (
        "date of birth corrected",
        "UPDATE OFFENDER SET DATE_OF_BIRTH = date(DATE_OF_BIRTH, '+1 day')
         WHERE OFFENDER_ID = ?1",
    ),
    (
        "PNC number recorded",
        "UPDATE OFFENDER SET PNC_NUMBER = '2020/' || printf('%07dZ', ?1)
         WHERE OFFENDER_ID = ?1",
    ),
    (
        "alias added",
        "INSERT INTO ALIAS (OFFENDER_ID, FIRST_NAME, SURNAME)
         VALUES (?1, 'Also', 'Known')",
    ),
    (
        "an alias deleted",
        "DELETE FROM ALIAS
         WHERE ALIAS_ID = (SELECT max(ALIAS_ID) FROM ALIAS WHERE OFFENDER_ID = ?1)",
    ),
    (
        "moved house",
        "INSERT INTO OFFENDER_ADDRESS (OFFENDER_ID, ADDRESS_NUMBER, STREET_NAME, TOWN_CITY,
                                       START_DATE)
         VALUES (?1, '7', 'Fictitious Way', 'Newport', (SELECT TODAY FROM LONDON_NOW))",
    ),
    (
        "postcode corrected",
        "UPDATE OFFENDER_ADDRESS SET POSTCODE = 'NP1 0AA'
         WHERE OFFENDER_ADDRESS_ID =
             (SELECT max(OFFENDER_ADDRESS_ID) FROM OFFENDER_ADDRESS WHERE OFFENDER_ID = ?1)",
    ),
    (
        "handed over to the next officer",
        "UPDATE OFFENDER_MANAGER SET OFFICER_ID = coalesce(
             (SELECT min(OFFICER_ID) FROM OFFICER WHERE OFFICER_ID > OFFENDER_MANAGER.OFFICER_ID), 1)
         WHERE OFFENDER_ID = ?1 AND ACTIVE_FLAG = 1",
    ),
    (
        "the officer's name corrected",
        "UPDATE OFFICER SET SURNAME = SURNAME WHERE OFFICER_ID =
             (SELECT OFFICER_ID FROM OFFENDER_MANAGER WHERE OFFENDER_ID = ?1 AND ACTIVE_FLAG = 1)",
    ),
    (
        "registered",
        "INSERT INTO REGISTRATION (OFFENDER_ID, REGISTER_TYPE, REGISTRATION_DATE)
         VALUES (?1, 'RMRH', (SELECT TODAY FROM LONDON_NOW))",
    ),
    (
        "a registration reviewed",
        "UPDATE REGISTRATION SET REGISTRATION_NOTES = 'Reviewed'
         WHERE REGISTRATION_ID =
             (SELECT max(REGISTRATION_ID) FROM REGISTRATION WHERE OFFENDER_ID = ?1)",
    ),
    (
        "a registration deleted",
        "DELETE FROM REGISTRATION
         WHERE REGISTRATION_ID =
             (SELECT max(REGISTRATION_ID) FROM REGISTRATION WHERE OFFENDER_ID = ?1)",
    ),
    (
        "deregistered",
        "INSERT INTO DEREGISTRATION (REGISTRATION_ID, DEREGISTRATION_DATE)
         SELECT REGISTRATION_ID, (SELECT TODAY FROM LONDON_NOW) FROM REGISTRATION WHERE OFFENDER_ID = ?1 LIMIT 1",
    ),
    (
        "conviction recorded",
        "INSERT INTO EVENT (OFFENDER_ID, REFERRAL_DATE, CONVICTION_DATE)
         VALUES (?1, (SELECT TODAY FROM LONDON_NOW), (SELECT TODAY FROM LONDON_NOW))",
    ),
    (
        "sentenced",
        "INSERT INTO DISPOSAL (EVENT_ID, DISPOSAL_TYPE, DISPOSAL_DATE, LENGTH_IN_MONTHS)
         SELECT EVENT_ID, 'ORA Community Order', (SELECT TODAY FROM LONDON_NOW), 12 FROM EVENT
         WHERE OFFENDER_ID = ?1 LIMIT 1",
    ),
    (
        "a requirement added to the sentence",
        "INSERT INTO RQMNT (DISPOSAL_ID, RQMNT_TYPE, START_DATE, LENGTH_IN_HOURS)
         SELECT DISPOSAL_ID, 'Unpaid Work', (SELECT TODAY FROM LONDON_NOW), 80 FROM DISPOSAL JOIN EVENT USING (EVENT_ID)
         WHERE OFFENDER_ID = ?1 LIMIT 1",
    ),
    (
        "OGRS assessed",
        "INSERT INTO OGRS_ASSESSMENT (OFFENDER_ID, ASSESSMENT_DATE, OGRS3_SCORE_1, OGRS3_SCORE_2)
         VALUES (?1, (SELECT TODAY FROM LONDON_NOW), 30, 45)",
    ),
    (
        "merged with another record",
        "INSERT INTO MERGE_HISTORY (OFFENDER_ID, MERGED_FROM_CRN, MERGED_TO_CRN, MERGED_DATE)
         SELECT OFFENDER_ID, 'X999999', CRN, (SELECT TODAY FROM LONDON_NOW) FROM OFFENDER WHERE OFFENDER_ID = ?1",
    ),
    (
        "management tier to be calculated",
        "INSERT INTO MANAGEMENT_TIER_EVENT (OFFENDER_ID, TIER_CHANGE_REASON, TIER_CHANGE_DATE)
         VALUES (?1, 'Review', (SELECT TODAY FROM LONDON_NOW))",
    ),
    (
        "contact recorded",
        "INSERT INTO CONTACT (OFFENDER_ID, CONTACT_TYPE, CONTACT_DATE)
         VALUES (?1, 'Telephone call', (SELECT TODAY FROM LONDON_NOW))",
    ),
    (
        "a contact's notes changed",
        "UPDATE CONTACT SET NOTES = 'Attended'
         WHERE CONTACT_ID = (SELECT max(CONTACT_ID) FROM CONTACT WHERE OFFENDER_ID = ?1)",
    ),
];

impl Delius {
    /// Adds `rows` rows that can be claimed at once, spread over the offenders and all source tables.
    ///
    /// Each is about a different record, so that none replaces another.
    pub fn seed_backlog(&self, rows: usize) -> Result<()> {
        let age = self.timings.lock().serve_after_seconds + BACKLOG_AGE_SECONDS;
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let offenders = offenders_to_change(&transaction)?;
        if offenders.is_empty() {
            bail!("there is no offender to add a backlog for");
        }
        let last_id: i64 = transaction.query_row(
            "SELECT coalesce(max(SEQ), 0) FROM SQLITE_SEQUENCE WHERE NAME = 'OFFENDER_DELTA'",
            [],
            |row| row.get(0),
        )?;
        let date_changed: String = transaction.query_row(
            "SELECT strftime('%Y-%m-%dT%H:%M:%S', LOCAL_TIME, -?1 || ' seconds') FROM LONDON_NOW",
            [age],
            |row| row.get(0),
        )?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO OFFENDER_DELTA (OFFENDER_ID, DATE_CHANGED, ACTION, SOURCE_TABLE, SOURCE_RECORD_ID,
                                             CREATED_DATETIME, LAST_UPDATED_DATETIME)
                 VALUES (?1, ?2, ?3, ?4, ?5, unixepoch() - ?6, unixepoch() - ?6)",
            )?;
            let first_record = FIRST_BACKLOG_RECORD + last_id;
            for (record, row) in (first_record..).zip(0..rows) {
                let offender = offenders[row % offenders.len()];
                // Shifted in each round over the offenders, so that each offender gets each table.
                let table = SOURCE_TABLES[(row + row / offenders.len()) % SOURCE_TABLES.len()];
                let action = if row % 10 == 9 { "DELETE" } else { "UPSERT" };
                statement.execute(params![offender, date_changed, action, table, record, age])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Adds `count` synthetic offenders, each with an officer, an address and a conviction. No rows of
    /// `OFFENDER_DELTA` remain for them.
    pub fn seed_people(&self, count: usize) -> Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let highest = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
        let last_update =
            highest("SELECT coalesce(max(OFFENDER_DELTA_ID), 0) FROM OFFENDER_DELTA")?;
        let first = highest("SELECT coalesce(max(OFFENDER_ID), 0) + 1 FROM OFFENDER")?;
        for offender in (first..).zip(0..count).map(|(offender, _)| offender) {
            add_person(&transaction, offender)?;
        }
        transaction.execute(
            "DELETE FROM OFFENDER_DELTA WHERE OFFENDER_DELTA_ID > ?1",
            [last_update],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Makes one random change, which fires the triggers, and returns it in words.
    pub fn random_change(&self) -> Result<String> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some((offender, crn)) = random_offender(&transaction)? else {
            bail!("there is no offender to change");
        };
        loop {
            // This ends, since some of the changes are possible for every offender.
            let (words, sql) = CHANGES[fastrand::usize(..CHANGES.len())];
            if transaction.prepare_cached(sql)?.execute([offender])? > 0 {
                transaction.commit()?;
                return Ok(format!("{crn} (offender {offender}): {words}"));
            }
        }
    }
}

fn offenders_to_change(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(
        "SELECT OFFENDER_ID FROM OFFENDER WHERE SOFT_DELETED = 0 ORDER BY OFFENDER_ID",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The first one from a random id upwards. `ORDER BY random()` would read every offender.
fn random_offender(connection: &Connection) -> rusqlite::Result<Option<(i64, String)>> {
    let highest: i64 = connection.query_row(
        "SELECT coalesce(max(OFFENDER_ID), 0) FROM OFFENDER",
        [],
        |row| row.get(0),
    )?;
    let mut statement = connection.prepare_cached(
        "SELECT OFFENDER_ID, CRN FROM OFFENDER WHERE SOFT_DELETED = 0 AND OFFENDER_ID >= ?1 ORDER BY OFFENDER_ID LIMIT 1",
    )?;
    let mut first_from = |from: i64| {
        statement
            .query_row([from], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    };
    match first_from(fastrand::i64(0..=highest))? {
        None => first_from(0),
        found => Ok(found),
    }
}

fn add_person(connection: &Connection, offender: i64) -> rusqlite::Result<()> {
    let officer = 1_000 + offender / CASELOAD;
    let run = |sql: &str, values: &[i64]| {
        connection
            .prepare_cached(sql)?
            .execute(params_from_iter(values))
    };
    run(
        "INSERT INTO OFFENDER (OFFENDER_ID, CRN, NOMS_NUMBER, FIRST_NAME, SURNAME, DATE_OF_BIRTH)
         VALUES (?1, printf('X%06d', ?1), printf('S%07d', ?1), 'Synthetic', printf('Person%d', ?1), '1990-01-01')",
        &[offender],
    )?;
    run(
        "INSERT INTO OFFICER (OFFICER_ID, OFFICER_CODE, FORENAME, SURNAME)
         VALUES (?1, printf('S%06d', ?1), 'Synthetic', 'Officer') ON CONFLICT DO NOTHING",
        &[officer],
    )?;
    run(
        "INSERT INTO OFFENDER_MANAGER (OFFENDER_ID, OFFICER_ID, ALLOCATION_DATE) VALUES (?1, ?2, '2020-01-01')",
        &[offender, officer],
    )?;
    run(
        "INSERT INTO OFFENDER_ADDRESS (OFFENDER_ID, STREET_NAME, TOWN_CITY, START_DATE)
         VALUES (?1, 'Synthetic Street', 'Hull', '2020-01-01')",
        &[offender],
    )?;
    run(
        "INSERT INTO EVENT (OFFENDER_ID, REFERRAL_DATE, CONVICTION_DATE) VALUES (?1, '2020-01-01', '2020-01-20')",
        &[offender],
    )?;
    Ok(())
}
