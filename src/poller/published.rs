//! The rows whose events are published, but which may not be deleted yet.

use std::collections::VecDeque;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::offender_update::ChangeId;

/// How many published rows are remembered. 100,000 take a few megabytes. The oldest are forgotten first, which can
/// cause a redelivery but loses nothing.
pub const CAPACITY: usize = 100_000;
/// How many deleted rows are remembered. A second claim of one follows right after the first.
const DELETED_CAPACITY: usize = 256;

/// A bounded memory of rows. Forgetting one can only cause a redelivery.
#[derive(Debug)]
pub struct PublishedRows {
    capacity: usize,
    rows: Mutex<Rows>,
}

#[derive(Debug)]
struct Rows {
    published: LruCache<ChangeId, ()>,
    /// The latest rows that were deleted, and when. Another claim may have locked one of them just before that.
    deleted: VecDeque<(ChangeId, Instant)>,
}

impl PublishedRows {
    /// An empty memory for this many published rows.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            rows: Mutex::new(Rows {
                // With a capacity, it would allocate room for all of them.
                published: LruCache::unbounded(),
                deleted: VecDeque::new(),
            }),
        }
    }

    /// Remembers a row. The topic has accepted all of its events.
    pub fn remember(&self, change: ChangeId) {
        let mut rows = self.rows.lock();
        rows.published.put(change, ());
        if rows.published.len() > self.capacity {
            rows.published.pop_lru();
        }
    }

    /// Whether this pod has published a row that it claimed at `claimed_at`.
    #[must_use]
    pub fn contains(&self, change: ChangeId, claimed_at: Instant) -> bool {
        let rows = self.rows.lock();
        let deleted_since = |&(deleted, at): &(_, Instant)| deleted == change && claimed_at < at;
        rows.published.contains(&change) || rows.deleted.iter().any(deleted_since)
    }

    /// Forgets a published row that was deleted, except for claims that were sent before.
    pub fn deleted(&self, change: ChangeId, now: Instant) {
        let mut rows = self.rows.lock();
        rows.published.pop(&change);
        rows.deleted.push_back((change, now));
        if rows.deleted.len() > DELETED_CAPACITY {
            rows.deleted.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn change(number: u128) -> ChangeId {
        ChangeId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn a_row_claimed_before_its_deletion_is_still_known() {
        let memory = PublishedRows::with_capacity(2);
        let before = Instant::now();
        let deleted_at = before + Duration::from_secs(1);
        for row in 0..1_000 {
            memory.remember(change(row));
            memory.deleted(change(row), deleted_at);
        }
        assert!(memory.contains(change(999), before));
        assert!(!memory.contains(change(999), deleted_at));
        assert!(!memory.contains(change(1), before));
        assert_eq!(memory.rows.lock().published.len(), 0);
    }

    #[test]
    fn the_oldest_row_is_forgotten_when_the_memory_is_full() {
        let now = Instant::now();
        let memory = PublishedRows::with_capacity(2);
        for row in [1, 2, 1, 3] {
            memory.remember(change(row));
        }
        let known: Vec<_> = (1..=3)
            .filter(|&row| memory.contains(change(row), now))
            .collect();
        assert_eq!(known, [1, 3]);
    }
}
