//! The progress of each row, as its calls show it: claimed, identified, published, settled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::delius::UpdateRow;
use crate::locked;

/// How many of the latest claimed rows are kept.
const MOST_WAYS: usize = 50;

/// A row since its latest claim.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) id: i64,
    offender: i64,
    pub(crate) source_table: Option<String>,
    source_record: Option<i64>,
    pub(crate) claimed: Timestamp,
    /// When the identifiers were answered, and whether there were any.
    pub(crate) identified: Option<(Timestamp, bool)>,
    /// When a message about the row arrived.
    pub(crate) published: Option<Timestamp>,
    /// When it was settled, and the word for how.
    pub(crate) settled: Option<(Timestamp, &'static str)>,
}

/// The latest claimed rows. A clone shares them.
#[derive(Clone, Default)]
pub(crate) struct Ways(Arc<Mutex<VecDeque<Way>>>);

impl Ways {
    pub(crate) fn claimed(&self, row: &UpdateRow) {
        let mut ways = locked(&self.0);
        ways.retain(|way| way.id != row.offender_delta_id);
        ways.push_front(Way {
            id: row.offender_delta_id,
            offender: row.offender_id,
            source_table: row.source_table.clone(),
            source_record: row.source_record_id,
            claimed: Timestamp::now(),
            identified: None,
            published: None,
            settled: None,
        });
        ways.truncate(MOST_WAYS);
    }

    /// The call names only the offender, so it counts for all of their rows without identifiers.
    pub(crate) fn identified(&self, offender: i64, found: bool) {
        let now = Timestamp::now();
        for way in locked(&self.0).iter_mut() {
            let waits = way.settled.is_none() && way.identified.is_none_or(|(_, found)| !found);
            if way.offender == offender && waits {
                way.identified = Some((now, found));
            }
        }
    }

    /// Counts for the oldest row about this record that has no message yet.
    pub(crate) fn published(&self, offender: i64, source_record: Option<i64>, at: Timestamp) {
        let mut ways = locked(&self.0);
        let way = ways.iter_mut().rev().find(|way| {
            way.offender == offender
                && way.source_record == source_record
                && way.published.is_none()
        });
        if let Some(way) = way {
            way.published = Some(at);
        }
    }

    pub(crate) fn settled(&self, id: i64, how: &'static str) {
        let mut ways = locked(&self.0);
        if let Some(way) = ways.iter_mut().find(|way| way.id == id) {
            way.settled = Some((Timestamp::now(), how));
        }
    }

    /// The latest first.
    pub(crate) fn latest(&self, limit: usize) -> Vec<Way> {
        locked(&self.0).iter().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delius::Status;

    #[test]
    fn a_row_claimed_again_has_one_way() {
        let row = UpdateRow {
            offender_id: 1,
            date_changed: String::new(),
            action: "UPSERT".to_owned(),
            offender_delta_id: 5,
            source_table: None,
            source_record_id: Some(345),
            status: Status::InProgress,
            failed_update: true,
            created: 0,
            last_updated: 0,
        };
        let ways = Ways::default();
        ways.claimed(&row);
        ways.claimed(&row);
        ways.published(1, Some(345), Timestamp::now());
        let latest = ways.latest(10);
        assert_eq!(latest.len(), 1);
        assert!(latest[0].published.is_some());
    }
}
