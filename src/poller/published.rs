//! The rows whose events this pod has published, and which it has perhaps not deleted yet.

use std::collections::VecDeque;

use lru::LruCache;
use tokio::time::Instant;

use crate::offender_update::ChangeId;

/// How many published rows are remembered. 100,000 take a few megabytes. The oldest are forgotten first, which can
/// cause a redelivery but loses nothing.
pub const CAPACITY: usize = 100_000;
/// How many deleted rows are remembered. Only a claim sent just before the deletion can still return a deleted row, so
/// few are needed.
const DELETED_CAPACITY: usize = 256;

/// A bounded memory of rows. Forgetting one can only cause a redelivery. Pure: time is an argument.
#[derive(Clone, Debug)]
pub struct PublishedRows {
    capacity: usize,
    published: LruCache<ChangeId, ()>,
    /// The latest rows that were deleted, and when. Another claim may have locked one of them just before that.
    deleted: VecDeque<(ChangeId, Instant)>,
}

impl PublishedRows {
    /// An empty memory for this many published rows.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            // A bounded cache would allocate room for its whole capacity.
            published: LruCache::unbounded(),
            deleted: VecDeque::new(),
        }
    }

    /// Remembers a row. The topic has accepted all of its events.
    pub fn remember(&mut self, change: ChangeId) {
        self.published.put(change, ());
        if self.published.len() > self.capacity {
            self.published.pop_lru();
        }
    }

    /// Whether this pod has published a row that it claimed at `claimed_at`. On a coarse clock, a claim may have the
    /// same time as the deletion after it.
    pub fn contains(&self, change: ChangeId, claimed_at: Instant) -> bool {
        let deleted_since = |&(deleted, at): &(_, Instant)| deleted == change && claimed_at <= at;
        self.published.contains(&change) || self.deleted.iter().any(deleted_since)
    }

    /// Forgets a published row that was deleted, except for claims that were sent before.
    pub fn deleted(&mut self, change: ChangeId, now: Instant) {
        self.published.pop(&change);
        self.deleted.push_back((change, now));
        if self.deleted.len() > DELETED_CAPACITY {
            self.deleted.pop_front();
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
    fn a_row_claimed_before_its_deletion_is_known_and_one_claimed_after_it_is_new() {
        let mut memory = PublishedRows::with_capacity(2);
        let before = Instant::now();
        let deleted_at = before + Duration::from_secs(1);
        for row in 0..1_000 {
            memory.remember(change(row));
            memory.deleted(change(row), deleted_at);
        }
        assert!(memory.contains(change(999), before));
        assert!(memory.contains(change(999), deleted_at));
        let after = deleted_at + Duration::from_nanos(1);
        assert!(!memory.contains(change(999), after));
        let oldest = 1_000 - DELETED_CAPACITY as u128;
        assert!(memory.contains(change(oldest), before));
        assert!(!memory.contains(change(oldest - 1), before));
        assert_eq!(memory.published.len(), 0);
    }

    #[test]
    fn the_oldest_row_is_forgotten_when_the_memory_is_full() {
        let now = Instant::now();
        let mut memory = PublishedRows::with_capacity(2);
        for row in [1, 2, 1, 3] {
            memory.remember(change(row));
        }
        let known: Vec<_> = (1..=3)
            .filter(|&row| memory.contains(change(row), now))
            .collect();
        assert_eq!(known, [1, 3]);
    }
}
