//! The mini-Delius: real tables with real triggers into `OFFENDER_DELTA`, and community-api's lock on its rows.
//!
//! One `SQLite` connection behind a mutex. The caller passes in the time of a claim, so that a simulation can set it.
//! Only `patiently` is asynchronous.

mod claim;
mod data;
mod file;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub use self::claim::{Attempt, Claim};
pub(crate) use self::rows::text;
pub use self::rows::{
    AdditionalIdentifier, Candidate, Identifiers, NewUpdate, Status, Timings, UpdateRow,
};

const OLDEST_CREATED: &str = "
    SELECT OFFENDER_DELTA_ID, LAST_UPDATED_DATETIME FROM OFFENDER_DELTA INDEXED BY OFFENDER_DELTA_OLDEST
    WHERE STATUS = 'CREATED' AND LAST_UPDATED_DATETIME <= ?1
    ORDER BY CREATED_DATETIME, TIE LIMIT 1";
/// This query runs before [`OLDEST_EXPIRED`], which would otherwise read every locked row.
const ANY_EXPIRED: &str = "
    SELECT EXISTS (SELECT 1 FROM OFFENDER_DELTA INDEXED BY OFFENDER_DELTA_STALE
                   WHERE STATUS = 'INPROGRESS' AND LAST_UPDATED_DATETIME <= ?1)";
const OLDEST_EXPIRED: &str = "
    SELECT OFFENDER_DELTA_ID, LAST_UPDATED_DATETIME FROM OFFENDER_DELTA INDEXED BY OFFENDER_DELTA_OLDEST
    WHERE STATUS = 'INPROGRESS' AND LAST_UPDATED_DATETIME <= ?1
    ORDER BY CREATED_DATETIME, TIE LIMIT 1";
const LOCK: &str = "
    UPDATE OFFENDER_DELTA SET STATUS = 'INPROGRESS', LAST_UPDATED_DATETIME = ?1
    WHERE OFFENDER_DELTA_ID = ?2 AND LAST_UPDATED_DATETIME = ?3 AND STATUS = ?4
    RETURNING *";
/// Null equals nothing, so a row without a table or a record has no duplicates.
const DELETE_DUPLICATES: &str = "
    DELETE FROM OFFENDER_DELTA
    WHERE OFFENDER_ID = ?1 AND SOURCE_TABLE = ?2 AND SOURCE_RECORD_ID = ?3 AND OFFENDER_DELTA_ID <> ?4";

/// The database. Clones share their state.
#[derive(Clone)]
pub struct Delius {
    connection: Arc<Mutex<Connection>>,
    /// The file. `None` means in memory.
    path: Option<Arc<PathBuf>>,
    timings: Arc<Mutex<Timings>>,
    lost_races: Arc<AtomicU64>,
}

impl Delius {
    /// A new database in memory, with the first few people in it.
    pub fn in_memory(timings: Timings) -> Result<Self> {
        Self::with(None, timings)
    }

    /// The database in a file, created with the first few people if it is new.
    pub fn open(path: &Path, timings: Timings) -> Result<Self> {
        Self::with(Some(path), timings)
    }

    fn with(path: Option<&Path>, timings: Timings) -> Result<Self> {
        Ok(Self {
            connection: Arc::new(Mutex::new(file::open(path)?)),
            path: path.map(|path| Arc::new(path.to_owned())),
            timings: Arc::new(Mutex::new(timings)),
            lost_races: Arc::default(),
        })
    }

    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock()
    }

    /// Runs any SQL, including several statements, and returns how many rows were changed, including those changed by
    /// triggers.
    pub fn execute(&self, sql: &str) -> Result<usize> {
        let connection = self.connection();
        let before = connection.total_changes();
        connection.execute_batch(sql)?;
        Ok(usize::try_from(connection.total_changes() - before)?)
    }

    /// Replaces the timings for later claims.
    pub fn set_timings(&self, timings: Timings) {
        *self.timings.lock() = timings;
    }

    /// The current timings.
    pub fn timings(&self) -> Timings {
        *self.timings.lock()
    }

    /// Adds a row as given, created and last updated at `now`, and returns its id.
    pub fn insert_update(&self, update: &NewUpdate, now: i64) -> Result<i64> {
        let connection = self.connection();
        connection
            .prepare_cached(
                "INSERT INTO OFFENDER_DELTA (OFFENDER_ID, DATE_CHANGED, ACTION, SOURCE_TABLE, SOURCE_RECORD_ID,
                                             CREATED_DATETIME, LAST_UPDATED_DATETIME)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            )?
            .execute(params![
                update.offender_id,
                update.date_changed,
                update.action,
                update.source_table,
                update.source_record_id,
                now
            ])?;
        Ok(connection.last_insert_rowid())
    }

    fn look(&self, sql: &str, not_after: i64, status: Status) -> Result<Option<Candidate>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(sql)?;
        let candidate = statement.query_row([not_after], |row| {
            Ok(Candidate {
                offender_delta_id: row.get(0)?,
                version: row.get(1)?,
                status,
            })
        });
        Ok(candidate.optional()?)
    }

    fn any_expired(&self, not_after: i64) -> Result<bool> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(ANY_EXPIRED)?;
        Ok(statement.query_row([not_after], |row| row.get(0))?)
    }

    /// Locks the candidate. `None` if another caller was faster.
    ///
    /// A new row replaces every other row about the same record of the same offender, with any status.
    pub fn lock(&self, candidate: &Candidate, now: i64) -> Result<Option<UpdateRow>> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let locked = transaction
            .prepare_cached(LOCK)?
            .query_row(
                params![
                    now,
                    candidate.offender_delta_id,
                    candidate.version,
                    candidate.status.as_text()
                ],
                UpdateRow::read,
            )
            .optional()?;
        let Some(mut row) = locked else {
            self.lost_races.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        row.failed_update = candidate.failed_update();
        if !row.failed_update {
            transaction
                .prepare_cached(DELETE_DUPLICATES)?
                .execute(params![
                    row.offender_id,
                    row.source_table,
                    row.source_record_id,
                    row.offender_delta_id
                ])?;
        }
        transaction.commit()?;
        Ok(Some(row))
    }

    /// How many times a caller was too late to lock the row that it had found.
    pub fn lost_races(&self) -> u64 {
        self.lost_races.load(Ordering::Relaxed)
    }

    /// An offender's identifiers, even if the offender is soft-deleted. `None` if there is no such offender.
    pub fn identifiers(&self, offender_id: i64) -> Result<Option<Identifiers>> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached("SELECT * FROM OFFENDER WHERE OFFENDER_ID = ?1")?;
        let Some(mut identifiers) = statement
            .query_row([offender_id], Identifiers::read)
            .optional()?
        else {
            return Ok(None);
        };
        let mut statement = connection.prepare_cached(
            "SELECT * FROM ADDITIONAL_IDENTIFIER WHERE OFFENDER_ID = ?1 ORDER BY ADDITIONAL_IDENTIFIER_ID",
        )?;
        let additional = statement.query_map([offender_id], AdditionalIdentifier::read)?;
        identifiers.additional = additional.collect::<rusqlite::Result<_>>()?;
        Ok(Some(identifiers))
    }

    /// The version of a row, which [`Delius::delete_version`] and [`Delius::mark_version`] compare. `None` if the row
    /// does not exist.
    pub fn version(&self, id: i64) -> Result<Option<i64>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT LAST_UPDATED_DATETIME FROM OFFENDER_DELTA WHERE OFFENDER_DELTA_ID = ?1",
        )?;
        Ok(statement.query_row([id], |row| row.get(0)).optional()?)
    }

    /// Deletes a row. `false` if another transaction has changed it since its version was read.
    pub fn delete_version(&self, id: i64, version: i64) -> Result<bool> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "DELETE FROM OFFENDER_DELTA WHERE OFFENDER_DELTA_ID = ?1 AND LAST_UPDATED_DATETIME = ?2",
        )?;
        Ok(statement.execute([id, version])? > 0)
    }

    /// Marks a row as failed. `false` if another transaction has changed it since its version was read.
    pub fn mark_version(&self, id: i64, version: i64, now: i64) -> Result<bool> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "UPDATE OFFENDER_DELTA SET STATUS = 'FAILED', LAST_UPDATED_DATETIME = ?3
             WHERE OFFENDER_DELTA_ID = ?1 AND LAST_UPDATED_DATETIME = ?2",
        )?;
        Ok(statement.execute([id, version, now])? > 0)
    }

    /// Deletes a row that no one else changes at the same time. `false` if it does not exist.
    pub fn delete_update(&self, id: i64) -> Result<bool> {
        match self.version(id)? {
            Some(version) => self.delete_version(id, version),
            None => Ok(false),
        }
    }

    /// Marks a row as failed that no one else changes at the same time. `false` if it does not exist.
    pub fn mark_failed(&self, id: i64, now: i64) -> Result<bool> {
        match self.version(id)? {
            Some(version) => self.mark_version(id, version, now),
            None => Ok(false),
        }
    }

    /// All rows of `OFFENDER_DELTA`, by id. Their `failed_update` is always false, since it belongs to an answer and
    /// not to a row.
    pub fn updates(&self) -> Result<Vec<UpdateRow>> {
        let connection = self.connection();
        let mut statement =
            connection.prepare_cached("SELECT * FROM OFFENDER_DELTA ORDER BY OFFENDER_DELTA_ID")?;
        let rows = statement.query_map([], UpdateRow::read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The first `limit` rows of `OFFENDER_DELTA`: locked ones first, then new ones, then those marked as failed.
    pub(crate) fn first_updates(&self, limit: usize) -> Result<Vec<UpdateRow>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT * FROM OFFENDER_DELTA
             ORDER BY CASE STATUS WHEN 'INPROGRESS' THEN 0 WHEN 'FAILED' THEN 2 ELSE 1 END, OFFENDER_DELTA_ID
             LIMIT ?1",
        )?;
        let rows = statement.query_map([i64::try_from(limit)?], UpdateRow::read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The number of rows in `OFFENDER_DELTA`, with any status.
    pub fn count_updates(&self) -> Result<usize> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT count(*) FROM OFFENDER_DELTA")?;
        Ok(usize::try_from(
            statement.query_row([], |row| row.get::<_, i64>(0))?,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_claim_is_a_search_in_an_index() -> Result<()> {
        let delius = Delius::in_memory(Timings::default())?;
        let connection = delius.connection();
        for sql in [
            OLDEST_CREATED,
            ANY_EXPIRED,
            OLDEST_EXPIRED,
            LOCK,
            DELETE_DUPLICATES,
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let nulls = vec![None::<i64>; statement.parameter_count()];
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(nulls), |row| row.get("detail"))?
                .collect::<rusqlite::Result<_>>()?;
            let searches = plan
                .iter()
                .filter(|step| step.starts_with("SEARCH"))
                .count();
            assert_eq!(searches, 1, "{sql}\n{plan:#?}");
            let slow = plan
                .iter()
                .any(|step| step.contains("B-TREE") || step.contains("SCAN OFFENDER"));
            assert!(!slow, "{sql}\n{plan:#?}");
        }
        Ok(())
    }
}
