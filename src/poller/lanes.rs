//! Rows of one offender take turns, in the order of their claims.
//!
//! A row leaves its lane by the end of its lease. The rows behind it were claimed later, so their turns come within
//! their leases.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::offender_update::OffenderId;

/// The lanes of a pod. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    /// The last row in the lane of each offender: its number, and what the next row waits for.
    last: HashMap<OffenderId, (u64, oneshot::Receiver<()>)>,
}

/// A row's stay in the lane of its offender. When this is dropped, the next row's turn comes.
///
/// A row must not leave before its turn, or the next row would overtake the one before.
#[derive(Debug)]
pub struct InLane {
    lanes: Lanes,
    offender: OffenderId,
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Lanes {
    /// Joins the end of the offender's lane.
    #[must_use]
    pub fn join(&self, offender: OffenderId) -> InLane {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        state.last_number += 1;
        let number = state.last_number;
        let before = state.last.insert(offender, (number, receiver));
        InLane {
            lanes: self.clone(),
            offender,
            number,
            before: before.map(|(_, before)| before),
            _after: sender,
        }
    }
}

impl InLane {
    /// Whether another row of the offender was in the lane when this one joined.
    pub fn is_behind_another(&self) -> bool {
        self.before.is_some()
    }

    /// Waits for the row before to leave the lane.
    pub async fn turn(&mut self) {
        if let Some(before) = self.before.take() {
            // Nothing is ever sent: dropping the sender is the signal.
            let _ = before.await;
        }
    }
}

impl Drop for InLane {
    fn drop(&mut self) {
        let mut state = self.lanes.0.lock();
        let last = state.last.get(&self.offender);
        if last.is_some_and(|(number, _)| *number == self.number) {
            state.last.remove(&self.offender);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn rows_of_one_offender_take_turns_and_others_do_not_wait() {
        let lanes = Lanes::default();
        let first = lanes.join(OffenderId(1));
        let mut second = lanes.join(OffenderId(1));
        let mut third = lanes.join(OffenderId(1));
        let mut other = lanes.join(OffenderId(2));
        assert!(!first.is_behind_another() && second.is_behind_another());
        assert_eq!(other.turn().now_or_never(), Some(()));
        let mut is_second_next = Box::pin(second.turn());
        assert_eq!(is_second_next.as_mut().now_or_never(), None);
        drop(first);
        assert_eq!(is_second_next.as_mut().now_or_never(), Some(()));
        drop(is_second_next);
        let mut is_third_next = Box::pin(third.turn());
        assert_eq!(is_third_next.as_mut().now_or_never(), None);
        drop(second);
        assert_eq!(is_third_next.as_mut().now_or_never(), Some(()));
    }

    #[test]
    fn a_lane_is_removed_by_its_last_row() {
        let lanes = Lanes::default();
        let first = lanes.join(OffenderId(1));
        let second = lanes.join(OffenderId(1));
        drop(first);
        assert_eq!(lanes.0.lock().last.len(), 1);
        drop(second);
        assert_eq!(lanes.0.lock().last.len(), 0);
        assert!(!lanes.join(OffenderId(1)).is_behind_another());
    }
}
