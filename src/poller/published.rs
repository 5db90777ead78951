//! The rows whose events are on the topic, or may be, while the row itself is not yet known to be deleted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::offender_update::OffenderDeltaId;

/// How sure the pod is that a row's events are on the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The topic has accepted every event: only the DELETE is left to do.
    Certain,
    /// A publish was sent and its answer lost: to be published again, which is then a redelivery.
    Possible,
}

/// A bounded memory; the oldest rows are forgotten first, which costs a redelivery and loses nothing.
#[derive(Debug)]
pub struct PublishedRows {
    capacity: usize,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    publications: HashMap<OffenderDeltaId, Publication>,
    /// In order of arrival; may still hold rows that are forgotten already.
    oldest_first: VecDeque<OffenderDeltaId>,
    /// The latest rows that were deleted, and when: one of them may have been claimed again just before it was.
    deleted: VecDeque<(OffenderDeltaId, Instant)>,
}

/// How many deleted rows are remembered; the second claim of one is dealt with right after the first.
const DELETED_ROWS_REMEMBERED: usize = 256;

impl PublishedRows {
    /// A memory for so many rows.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            rows: Mutex::default(),
        }
    }

    /// Remembers a row. A certain publication never becomes a possible one.
    pub fn remember(&self, row: OffenderDeltaId, publication: Publication) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match rows.publications.get(&row) {
            Some(Publication::Certain) => return,
            Some(Publication::Possible) => {}
            None => rows.oldest_first.push_back(row),
        }
        rows.publications.insert(row, publication);
        while rows.oldest_first.len() > self.capacity {
            if let Some(oldest) = rows.oldest_first.pop_front() {
                rows.publications.remove(&oldest);
            }
        }
    }

    /// What is remembered of a row that was claimed at `claimed_at`. If that was after its deletion, it is a new row.
    #[must_use]
    pub fn get(&self, row: OffenderDeltaId, claimed_at: Instant) -> Option<Publication> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let deleted_since = |&(deleted, at): &(_, Instant)| deleted == row && claimed_at < at;
        if rows.deleted.iter().any(deleted_since) {
            return Some(Publication::Certain);
        }
        rows.publications.get(&row).copied()
    }

    /// Notes that a published row is deleted.
    pub fn deleted(&self, row: OffenderDeltaId) {
        self.forget(row);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.deleted.push_back((row, Instant::now()));
        if rows.deleted.len() > DELETED_ROWS_REMEMBERED {
            rows.deleted.pop_front();
        }
    }

    /// Forgets a row that was never published, or is given up.
    pub fn forget(&self, row: OffenderDeltaId) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.publications.remove(&row).is_some() {
            // Nearly always one of the last: rows are remembered for the length of one DELETE.
            if let Some(position) = rows.oldest_first.iter().rposition(|&other| other == row) {
                rows.oldest_first.remove(position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_claimed_just_before_its_deletion_is_known_and_one_claimed_after_it_is_new() {
        let memory = PublishedRows::with_capacity(2);
        let before = Instant::now();
        for row in 0..1_000 {
            memory.remember(OffenderDeltaId(row), Publication::Certain);
            memory.deleted(OffenderDeltaId(row));
        }
        let latest = OffenderDeltaId(999);
        assert_eq!(memory.get(latest, before), Some(Publication::Certain));
        assert_eq!(memory.get(latest, Instant::now()), None);
        assert_eq!(memory.get(OffenderDeltaId(1), before), None);
    }

    #[test]
    fn the_oldest_row_is_forgotten_when_the_memory_is_full_and_certainty_is_kept() {
        let (row, now) = (OffenderDeltaId, Instant::now());
        let memory = PublishedRows::with_capacity(2);
        memory.remember(row(1), Publication::Certain);
        memory.remember(row(1), Publication::Possible);
        assert_eq!(memory.get(row(1), now), Some(Publication::Certain));
        memory.remember(row(2), Publication::Possible);
        memory.remember(row(2), Publication::Certain);
        assert_eq!(memory.get(row(2), now), Some(Publication::Certain));
        memory.remember(row(3), Publication::Possible);
        assert_eq!(memory.get(row(1), now), None);
        memory.forget(row(2));
        memory.remember(row(4), Publication::Possible);
        assert_eq!(
            (memory.get(row(2), now), memory.get(row(3), now)),
            (None, Some(Publication::Possible))
        );
        assert_eq!(memory.rows.lock().unwrap().oldest_first.len(), 2);
    }
}
