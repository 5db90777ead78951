//! The file that holds the data, which other programs may use as well: what is checked when it is opened, how long a
//! call waits for it, and what an error means.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Delius;

const TABLES: &str = include_str!("schema.sql");
const PEOPLE: &str = include_str!("people.sql");
const TRIGGERS: &str = include_str!("triggers.sql");

/// More statements than the mini-Delius and the page have together, so that each is prepared once.
const PREPARED_STATEMENTS: usize = 128;
/// How long a call waits for another program to end its transaction.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one attempt waits for the other program while it keeps the connection busy, and the pause before the next
/// attempt.
const ATTEMPT: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(40);
/// The first ids are random below this, so that no test can rely on them.
const HIGHEST_FIRST_ID: u64 = 1_000_000;

const COLUMNS: &str = "
    SELECT upper(TABLES.NAME || '.' || COLUMNS.NAME || ' ' || COLUMNS.TYPE)
        || iif(COLUMNS.\"notnull\", ' NOT NULL', '') || iif(TABLES.STRICT, ' STRICT', '')
    FROM pragma_table_list AS TABLES JOIN pragma_table_xinfo(TABLES.NAME) AS COLUMNS
    WHERE TABLES.TYPE = 'table' AND TABLES.SCHEMA = 'main' AND TABLES.NAME NOT LIKE 'sqlite%'";
/// Indexes, views and triggers, with the SQL that creates them.
const PARTS: &str = "
    SELECT TYPE || ' IF EXISTS ' || NAME, SQL FROM SQLITE_SCHEMA WHERE TYPE <> 'table' AND SQL IS NOT NULL ORDER BY ROWID";

/// Opens the file, or a database in memory, and creates what is missing.
pub(super) fn open(path: Option<&Path>) -> Result<Connection> {
    let connection = match path {
        Some(path) => Connection::open(path),
        None => Connection::open_in_memory(),
    };
    connection
        .map_err(Into::into)
        .and_then(prepare)
        .map_err(|error| explain(error, path))
}

fn prepare(mut connection: Connection) -> Result<Connection> {
    connection.busy_timeout(PATIENCE)?;
    // The root file system may be read-only, and there need be no /tmp.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.table_exists(None, "OFFENDER_DELTA")? {
        repair(&transaction)?;
    } else {
        let others = "SELECT count(*) FROM SQLITE_SCHEMA WHERE NAME NOT LIKE 'sqlite_%'";
        let others: i64 = transaction.query_row(others, [], |row| row.get(0))?;
        ensure!(
            others == 0,
            "it has tables, but not OFFENDER_DELTA: delete it and start again, or name another with --database"
        );
        create(&transaction)?;
    }
    transaction.commit()?;
    connection.busy_timeout(ATTEMPT)?;
    Ok(connection)
}

fn create(connection: &Connection) -> Result<()> {
    for script in [TABLES, PEOPLE, TRIGGERS] {
        connection.execute_batch(script)?;
    }
    // Not from fastrand, whose sequence belongs to the seed of a simulation.
    let first_id = Uuid::new_v4().as_u64_pair().0 % HIGHEST_FIRST_ID;
    connection.execute(
        "INSERT INTO SQLITE_SEQUENCE (NAME, SEQ) VALUES ('OFFENDER_DELTA', ?1)",
        [i64::try_from(first_id)?],
    )?;
    Ok(())
}

/// Recreates indexes, views and triggers that differ from those of this version. Tables cannot be changed that way.
fn repair(transaction: &Transaction<'_>) -> Result<()> {
    let wanted = Connection::open_in_memory()?;
    create(&wanted)?;
    let columns = |connection: &Connection| -> Result<BTreeSet<String>> {
        let mut statement = connection.prepare(COLUMNS)?;
        let columns = statement.query_map([], |row| row.get(0))?;
        Ok(columns.collect::<rusqlite::Result<_>>()?)
    };
    let there = columns(transaction)?;
    let missing: Vec<String> = columns(&wanted)?.difference(&there).cloned().collect();
    ensure!(
        missing.is_empty(),
        "it was made by another version of the sandbox: delete it (docker-compose down -v does) and start again. \
         It lacks {}",
        missing.join(", ")
    );
    let parts = |connection: &Connection| -> Result<Vec<(String, String)>> {
        let mut statement = connection.prepare(PARTS)?;
        let parts = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(parts.collect::<rusqlite::Result<_>>()?)
    };
    let (wanted, there) = (parts(&wanted)?, parts(transaction)?);
    if wanted.iter().all(|part| there.contains(part)) {
        return Ok(());
    }
    for (name, _) in wanted.iter().rev() {
        transaction.execute_batch(&format!("DROP {name}"))?;
    }
    for (_, sql) in &wanted {
        transaction.execute_batch(sql)?;
    }
    Ok(())
}

impl Delius {
    /// Runs `work` on a thread that may block, and repeats it while another program has the file locked. So `work` must
    /// be one transaction. After 2 seconds it fails.
    pub async fn patiently<T: Send + 'static>(
        &self,
        work: impl Fn(&Self) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let Some(path) = &self.path else {
            // No other program uses a database in memory.
            return work(self);
        };
        let (work, deadline) = (Arc::new(work), Instant::now() + PATIENCE);
        loop {
            let (delius, attempt) = (self.clone(), work.clone());
            match spawn_blocking(move || attempt(&delius)).await? {
                Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(PAUSE).await,
                result => return result.map_err(|error| explain(error, Some(path))),
            }
        }
    }
}

fn code(error: &anyhow::Error) -> Option<ErrorCode> {
    error.downcast_ref::<rusqlite::Error>()?.sqlite_error_code()
}

fn is_busy(error: &anyhow::Error) -> bool {
    matches!(
        code(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Names the file, and what to do about the error if that is known.
fn explain(error: anyhow::Error, path: Option<&Path>) -> anyhow::Error {
    let Some(path) = path.map(Path::display) else {
        return error;
    };
    let remedy = match code(&error) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has an open transaction on it: end that with COMMIT or ROLLBACK"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it cannot be written: make the file and its folder writable, or name another with --database"
        }
        Some(ErrorCode::DiskFull) => "its disk is full: free some space",
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is not a database, or it is damaged: delete it and start again, or name another with --database"
        }
        Some(ErrorCode::CannotOpen) => {
            "it cannot be opened: make the file readable and its folder writable, or name another with --database"
        }
        _ => return error.context(format!("database {path}")),
    };
    error.context(format!("database {path}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_tables_stay_in_memory() -> Result<()> {
        let connection = open(None)?;
        let in_memory: i64 = connection.query_row("PRAGMA temp_store", [], |row| row.get(0))?;
        assert_eq!(in_memory, 2);
        Ok(())
    }
}
