//! Rows of one offender take turns, in the order in which they were claimed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::offender_update::OffenderId;

/// The queue of each offender that has rows in flight; no longer than the rows in flight.
#[derive(Clone, Debug, Default)]
pub struct Order {
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    last_ticket: u64,
    last_in_line: HashMap<OffenderId, Waiter>,
}

/// A row in line, as the one behind it sees it.
#[derive(Debug)]
struct Waiter {
    ticket: u64,
    done: oneshot::Receiver<Word>,
}

/// What a row says to the one behind it.
#[derive(Debug)]
enum Word {
    End(End),
    /// It has left the line before its turn: wait for the one that it waited for.
    WaitFor(Waiter),
}

/// How the turn before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its row is published, or fell to a fault of its own; the next one may go on.
    Over,
    /// Nothing can be found out about this offender for now; for the next row it would be the same.
    OffenderInTrouble,
}

/// One row's place in the queue of its offender. When this is dropped, however that happens, the next row's turn comes, or it
/// waits for the row that this one waited for.
#[derive(Debug)]
pub struct Turn {
    order: Order,
    offender: OffenderId,
    ticket: u64,
    before: Option<Waiter>,
    done: Option<oneshot::Sender<Word>>,
}

impl Order {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many offenders have rows in flight.
    #[must_use]
    pub fn offenders(&self) -> usize {
        self.lines().last_in_line.len()
    }

    /// Joins the end of the offender's queue.
    #[must_use]
    pub fn join(&self, offender: OffenderId) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let mut lines = self.lines();
        lines.last_ticket += 1;
        let ticket = lines.last_ticket;
        let waiter = Waiter {
            ticket,
            done: receiver,
        };
        let before = lines.last_in_line.insert(offender, waiter);
        Turn {
            order: self.clone(),
            offender,
            ticket,
            before,
            done: Some(sender),
        }
    }
}

impl Turn {
    /// Whether there was another row of the offender in line when this one joined.
    #[must_use]
    pub fn is_behind_another(&self) -> bool {
        self.before.is_some()
    }

    /// Waits for the turn before to end.
    pub async fn come(&mut self) -> End {
        while let Some(before) = &mut self.before {
            match (&mut before.done).await {
                Ok(Word::WaitFor(earlier)) => self.before = Some(earlier),
                Ok(Word::End(end)) => {
                    self.before = None;
                    return end;
                }
                // A turn that ended without a word (its task was dropped) is over too.
                Err(_) => self.before = None,
            }
        }
        End::Over
    }

    /// Ends the turn with a word for the next one.
    pub fn end(mut self, end: End) {
        self.say(Word::End(end));
    }

    fn say(&mut self, word: Word) {
        if let Some(done) = self.done.take() {
            // Nobody may be waiting.
            let _ = done.send(word);
        }
    }
}

impl Drop for Turn {
    /// Whoever leaves before the turn has come, lets the next one wait for the one before, so that nobody overtakes.
    fn drop(&mut self) {
        let before = self.before.take();
        let mut lines = self.order.lines();
        let is_last = lines
            .last_in_line
            .get(&self.offender)
            .is_some_and(|last| last.ticket == self.ticket);
        match (is_last, before) {
            (true, Some(before)) => drop(lines.last_in_line.insert(self.offender, before)),
            (true, None) => drop(lines.last_in_line.remove(&self.offender)),
            (false, Some(before)) => {
                drop(lines);
                self.say(Word::WaitFor(before));
            }
            (false, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn rows_of_one_offender_wait_for_each_other_and_others_do_not() {
        let order = Order::default();
        let mut first = order.join(OffenderId(1));
        let mut second = order.join(OffenderId(1));
        let mut third = order.join(OffenderId(1));
        let mut other = order.join(OffenderId(2));
        assert_eq!(first.come().now_or_never(), Some(End::Over));
        assert_eq!(other.come().now_or_never(), Some(End::Over));
        assert_eq!(second.come().now_or_never(), None);
        first.end(End::OffenderInTrouble);
        assert_eq!(second.come().now_or_never(), Some(End::OffenderInTrouble));
        assert_eq!(third.come().now_or_never(), None);
        drop(second);
        assert_eq!(third.come().now_or_never(), Some(End::Over));
        drop(third);
        drop(other);
        assert!(order.lines.lock().unwrap().last_in_line.is_empty());
    }

    #[tokio::test]
    async fn a_row_that_leaves_the_line_early_lets_nobody_overtake_the_one_before_it() {
        let order = Order::default();
        let first = order.join(OffenderId(1));
        let second = order.join(OffenderId(1));
        let mut third = order.join(OffenderId(1));
        let fourth = order.join(OffenderId(1));
        drop(second);
        assert_eq!(third.come().now_or_never(), None);
        drop(fourth);
        let mut fifth = order.join(OffenderId(1));
        assert_eq!(fifth.come().now_or_never(), None);
        first.end(End::Over);
        assert_eq!(third.come().now_or_never(), Some(End::Over));
        assert_eq!(fifth.come().now_or_never(), None);
        third.end(End::OffenderInTrouble);
        assert_eq!(fifth.come().now_or_never(), Some(End::OffenderInTrouble));
        drop(fifth);
        assert_eq!(order.offenders(), 0);
    }
}
