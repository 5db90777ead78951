//! The mini-Delius: which row is served, the lock, and how its cells are read.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use sandbox::delius::{Attempt, Candidate, Claim, NewUpdate, Status, UpdateRow};
use sandbox::{Delius, Timings};

const NOW: i64 = 1_600_000_000;

fn delius() -> Result<Delius> {
    Delius::in_memory(Timings::default())
}

/// Claims without other callers.
fn claim(delius: &Delius, now: i64) -> Result<Option<UpdateRow>> {
    match delius.attempt(Claim::default(), now)? {
        Attempt::Row(candidate, _) => delius.lock(&candidate, now),
        _ => Ok(None),
    }
}

/// Reads as a caller who is about to lock.
fn read(delius: &Delius, claim: Claim, now: i64) -> Result<(Candidate, Claim)> {
    match delius.attempt(claim, now)? {
        Attempt::Row(candidate, rest) => Ok((candidate, rest)),
        other => bail!("{other:?} instead of a row"),
    }
}

fn about(offender_id: i64, table: &str, record: i64) -> NewUpdate {
    NewUpdate {
        offender_id,
        source_table: Some(table.into()),
        source_record_id: Some(record),
        ..NewUpdate::default()
    }
}

#[test]
fn old_enough_rows_are_served_oldest_first() -> Result<()> {
    let delius = delius()?;
    let late = delius.insert_update(&about(1, "ALIAS", 1), NOW)?;
    let early = delius.insert_update(&about(1, "ALIAS", 2), NOW - 1)?;
    let tied = delius.insert_update(&about(1, "ALIAS", 3), NOW - 1)?;
    assert_eq!(claim(&delius, NOW)?, None);
    let mut first = BTreeSet::new();
    for _ in 0..2 {
        let row = claim(&delius, NOW + 1)?.context("old enough")?;
        assert_eq!((row.failed_update, row.status), (false, Status::InProgress));
        assert_eq!(row.last_updated, NOW + 1);
        first.insert(row.offender_delta_id);
    }
    assert_eq!(first, BTreeSet::from([early, tied]));
    assert_eq!(claim(&delius, NOW + 1)?, None);
    assert_eq!(
        claim(&delius, NOW + 2)?
            .context("old enough")?
            .offender_delta_id,
        late
    );
    Ok(())
}

#[test]
fn an_expired_lock_is_served_again_as_a_failed_update_after_everything_new() -> Result<()> {
    let delius = delius()?;
    let first = delius.insert_update(&about(1, "ALIAS", 1), NOW)?;
    claim(&delius, NOW + 2)?.context("the first claim")?;
    assert_eq!(claim(&delius, NOW + 601)?, None);
    let new = delius.insert_update(&about(1, "ALIAS", 2), NOW + 600)?;
    assert_eq!(
        claim(&delius, NOW + 602)?
            .context("the new row")?
            .offender_delta_id,
        new
    );
    let again = claim(&delius, NOW + 602)?.context("the expired lock")?;
    assert_eq!(
        (again.offender_delta_id, again.failed_update),
        (first, true)
    );
    assert_eq!(claim(&delius, NOW + 602)?, None);
    Ok(())
}

#[test]
fn locking_a_new_row_deletes_even_locked_duplicates() -> Result<()> {
    let delius = delius()?;
    let locked = delius.insert_update(&about(1, "EVENT", 7), NOW)?;
    claim(&delius, NOW + 2)?.context("locked by another pod")?;
    let failed = delius.insert_update(&about(1, "EVENT", 7), NOW + 3)?;
    delius.mark_failed(failed, NOW + 3)?;
    let kept = delius.insert_update(&about(1, "EVENT", 7), NOW + 4)?;
    let duplicate = delius.insert_update(&about(1, "EVENT", 7), NOW + 5)?;
    let others = [
        about(2, "EVENT", 7),
        about(1, "ALIAS", 7),
        about(1, "EVENT", 8),
    ];
    for other in &others {
        delius.insert_update(other, NOW + 9)?;
    }
    assert_eq!(
        claim(&delius, NOW + 6)?
            .context("the oldest")?
            .offender_delta_id,
        kept
    );
    let left: Vec<i64> = delius
        .updates()?
        .iter()
        .map(|row| row.offender_delta_id)
        .collect();
    assert!(
        ![locked, failed, duplicate]
            .iter()
            .any(|id| left.contains(id))
    );
    assert_eq!(left.len(), 1 + others.len());
    assert!(!delius.delete_update(locked)?);
    assert!(!delius.mark_failed(locked, NOW)?);
    Ok(())
}

#[test]
fn a_row_without_a_table_or_a_record_has_no_duplicates() -> Result<()> {
    let delius = delius()?;
    for (table, record) in [(None, None), (Some("EVENT"), None), (None, Some(7))] {
        let update = NewUpdate {
            source_table: table.map(str::to_owned),
            source_record_id: record,
            ..NewUpdate::default()
        };
        for _ in 0..2 {
            delius.insert_update(&update, NOW)?;
        }
    }
    for _ in 0..6 {
        claim(&delius, NOW + 2)?.context("each of the six is served")?;
    }
    assert_eq!(delius.count_updates()?, 6);
    Ok(())
}

#[test]
fn of_two_callers_with_the_same_candidate_one_gets_the_row() -> Result<()> {
    let delius = delius()?;
    // Without fractions, the version alone cannot distinguish the callers.
    delius.set_timings(Timings {
        serve_after_seconds: 0,
        lock_expiry_seconds: 600,
    });
    delius.insert_update(&NewUpdate::default(), NOW)?;
    let (one, _) = read(&delius, Claim::default(), NOW)?;
    let (other, _) = read(&delius, Claim::default(), NOW)?;
    assert!(delius.lock(&one, NOW)?.is_some());
    assert_eq!(delius.lock(&other, NOW)?, None);
    Ok(())
}

#[test]
fn a_failed_row_is_never_served_and_nonsense_is_refused() -> Result<()> {
    let delius = delius()?;
    let id = delius.insert_update(&NewUpdate::default(), NOW)?;
    assert!(delius.mark_failed(id, NOW)?);
    assert_eq!(claim(&delius, NOW + 1_000_000)?, None);
    assert!(delius.delete_update(id)?);
    let wrong = NewUpdate {
        action: "INSERT".into(),
        ..NewUpdate::default()
    };
    assert!(delius.insert_update(&wrong, NOW).is_err());
    assert!(
        delius.insert_update(&NewUpdate::default(), NOW)? > id,
        "an id must not come back"
    );
    Ok(())
}

#[test]
fn rows_of_one_second_have_no_fixed_order() -> Result<()> {
    let orders: Vec<Vec<i64>> = (0..2)
        .map(|_| {
            let delius = delius()?;
            let first = delius.insert_update(&about(1, "ALIAS", 0), NOW)?;
            for record in 1..20 {
                delius.insert_update(&about(1, "ALIAS", record), NOW)?;
            }
            let claims = std::iter::from_fn(|| claim(&delius, NOW + 2).transpose());
            claims
                .map(|row| Ok(row?.offender_delta_id - first))
                .collect()
        })
        .collect::<Result<_>>()?;
    for order in &orders {
        assert_eq!(order.len(), 20);
        assert!(!order.is_sorted(), "{order:?}");
    }
    Ok(())
}

#[test]
fn ten_lost_races_for_new_rows_are_a_conflict() -> Result<()> {
    let delius = delius()?;
    for record in 0..20 {
        delius.insert_update(&about(1, "ALIAS", record), NOW)?;
    }
    let mut slow = Claim::default();
    for _ in 0..10 {
        let (candidate, rest) = read(&delius, slow, NOW + 2)?;
        claim(&delius, NOW + 2)?.context("another caller is faster")?;
        assert_eq!(delius.lock(&candidate, NOW + 2)?, None);
        slow = rest;
    }
    assert!(matches!(delius.attempt(slow, NOW + 2)?, Attempt::Conflict));
    assert_eq!(delius.lost_races(), 10);
    Ok(())
}

#[test]
fn expired_rows_get_ten_more_attempts() -> Result<()> {
    let delius = delius()?;
    for record in 0..19 {
        delius.insert_update(&about(1, "ALIAS", record), NOW)?;
    }
    let expired = NOW + 602;
    for _ in 0..19 {
        claim(&delius, NOW + 2)?.context("locked")?;
    }
    delius.insert_update(&about(1, "ALIAS", 19), NOW + 600)?;
    let mut slow = Claim::default();
    for lost in 0..11 {
        let (candidate, rest) = read(&delius, slow, expired)?;
        assert_eq!(candidate.failed_update(), lost > 0, "the new row first");
        claim(&delius, expired)?.context("another caller is faster")?;
        assert_eq!(delius.lock(&candidate, expired)?, None);
        slow = rest;
    }
    assert!(matches!(delius.attempt(slow, expired)?, Attempt::Conflict));
    Ok(())
}

#[test]
fn a_row_that_changed_since_it_was_read_is_neither_deleted_nor_marked() -> Result<()> {
    let delius = delius()?;
    let id = delius.insert_update(&NewUpdate::default(), NOW)?;
    let version = delius.version(id)?.context("the row")?;
    claim(&delius, NOW + 2)?.context("another caller locks it")?;
    assert!(!delius.delete_version(id, version)?);
    assert!(!delius.mark_version(id, version, NOW + 3)?);
    let version = delius.version(id)?.context("the row")?;
    assert!(delius.mark_version(id, version, NOW + 3)?);
    assert!(delius.delete_version(id, NOW + 3)?);
    assert_eq!(delius.version(id)?, None);
    Ok(())
}

#[test]
fn times_are_printed_as_community_api_prints_them() -> Result<()> {
    let delius = delius()?;
    for (typed, served) in [
        ("2020-07-19T13:56:43.120", "2020-07-19T13:56:43.12"),
        ("2020-07-19T13:56:43.000", "2020-07-19T13:56:43"),
        ("2020-07-19T13:56", "2020-07-19T13:56:00"),
        ("2020-07-19 13:56:43", "2020-07-19T13:56:43"),
        ("soon", "soon"),
    ] {
        let update = NewUpdate {
            date_changed: typed.to_owned(),
            ..NewUpdate::default()
        };
        delius.insert_update(&update, 0)?;
        let row = claim(&delius, 10)?.context("a row")?;
        assert_eq!(row.date_changed, served);
    }
    Ok(())
}

#[test]
fn a_soft_deleted_offender_is_found() -> Result<()> {
    let delius = delius()?;
    delius.execute("UPDATE OFFENDER SET SOFT_DELETED = 1 WHERE OFFENDER_ID = 1")?;
    assert!(delius.identifiers(1)?.is_some());
    delius.execute("DELETE FROM OFFENDER WHERE OFFENDER_ID = 1")?;
    assert_eq!(delius.identifiers(1)?, None);
    Ok(())
}

#[test]
fn an_empty_text_is_null() -> Result<()> {
    let delius = delius()?;
    delius.execute("UPDATE OFFENDER SET NOMS_NUMBER = '' WHERE OFFENDER_ID = 1")?;
    assert_eq!(
        delius.identifiers(1)?.context("offender 1")?.noms_number,
        None
    );
    delius.execute("UPDATE OFFENDER_DELTA SET SOURCE_TABLE = ''")?;
    let row = claim(&delius, i64::from(u32::MAX))?.context("the row")?;
    assert_eq!(row.source_table, None);
    Ok(())
}

#[test]
fn a_wrongly_typed_cell_is_refused_or_still_read() -> Result<()> {
    let delius = delius()?;
    delius.insert_update(&NewUpdate::default(), NOW)?;
    for wrong in [
        "UPDATE OFFENDER_DELTA SET SOURCE_RECORD_ID = 'abc'",
        "UPDATE OFFENDER_DELTA SET LAST_UPDATED_DATETIME = datetime()",
        "UPDATE OFFENDER SET SURNAME = x'ff00'",
    ] {
        assert!(delius.execute(wrong).is_err(), "{wrong}");
    }
    delius
        .execute("UPDATE OFFENDER_DELTA SET SOURCE_TABLE = CAST(x'41ff' AS TEXT), STATUS = NULL")?;
    let row = &delius.updates()?[0];
    assert_eq!(
        (row.source_table.as_deref(), row.status),
        (Some("A\u{fffd}"), Status::None)
    );
    assert_eq!(
        claim(&delius, NOW + 9)?,
        None,
        "null is not a status that is served"
    );
    Ok(())
}

#[test]
fn a_backlog_can_be_claimed_and_replaces_no_row() -> Result<()> {
    let delius = delius()?;
    delius.seed_people(200)?;
    assert_eq!(delius.count_updates()?, 0);
    delius.seed_backlog(500)?;
    delius.seed_backlog(500)?;
    let now = delius.updates()?[0].created + 62;
    let mut seen = (BTreeSet::new(), BTreeSet::new());
    while let Some(row) = claim(&delius, now)? {
        assert!(delius.identifiers(row.offender_id)?.is_some());
        seen.0.insert(row.offender_id);
        seen.1.insert(row.source_table);
        assert!(delius.delete_update(row.offender_delta_id)?);
    }
    assert_eq!((seen.0.len(), seen.1.len()), (205, 14));
    Ok(())
}
