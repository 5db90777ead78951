//! The latest claimed rows, and how far each has come according to its calls: claimed, identified, published, settled.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::delius::UpdateRow;

/// How many of the latest claimed rows are kept.
const MOST_ROWS: usize = 50;

/// A row since its latest claim.
#[derive(Clone)]
pub(crate) struct ClaimedRow {
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

/// The latest claimed rows. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct ClaimedRows(Arc<Mutex<VecDeque<ClaimedRow>>>);

impl ClaimedRows {
    pub(crate) fn claimed(&self, row: &UpdateRow) {
        let mut rows = self.0.lock();
        rows.retain(|known| known.id != row.offender_delta_id);
        rows.push_front(ClaimedRow {
            id: row.offender_delta_id,
            offender: row.offender_id,
            source_table: row.source_table.clone(),
            source_record: row.source_record_id,
            claimed: Timestamp::now(),
            identified: None,
            published: None,
            settled: None,
        });
        rows.truncate(MOST_ROWS);
    }

    /// Records that identifiers were answered. The call names only the offender, so it counts for all of their rows
    /// without identifiers.
    pub(crate) fn identified(&self, offender: i64, found: bool) {
        let now = Timestamp::now();
        for row in self.0.lock().iter_mut() {
            let waits = row.settled.is_none() && row.identified.is_none_or(|(_, found)| !found);
            if row.offender == offender && waits {
                row.identified = Some((now, found));
            }
        }
    }

    /// Records a message for the oldest row about this record that has none yet.
    pub(crate) fn published(&self, offender: i64, source_record: Option<i64>, at: Timestamp) {
        let mut rows = self.0.lock();
        let row = rows.iter_mut().rev().find(|row| {
            row.offender == offender
                && row.source_record == source_record
                && row.published.is_none()
        });
        if let Some(row) = row {
            row.published = Some(at);
        }
    }

    pub(crate) fn settled(&self, id: i64, how: &'static str) {
        let mut rows = self.0.lock();
        if let Some(row) = rows.iter_mut().find(|row| row.id == id) {
            row.settled = Some((Timestamp::now(), how));
        }
    }

    /// The latest first.
    pub(crate) fn latest(&self, limit: usize) -> Vec<ClaimedRow> {
        self.0.lock().iter().take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delius::Status;

    #[test]
    fn a_row_claimed_again_is_listed_once() {
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
        let rows = ClaimedRows::default();
        rows.claimed(&row);
        rows.claimed(&row);
        rows.published(1, Some(345), Timestamp::now());
        let latest = rows.latest(10);
        assert_eq!(latest.len(), 1);
        assert!(latest[0].published.is_some());
    }
}
