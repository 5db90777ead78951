//! The offenders whose rows this pod left because their calls kept failing. When they come back they do not hold a place that
//! others need, even while nobody gets through: otherwise as many such rows as there are places would stop a pod that has
//! nobody to compare them with for the length of their leases, each time they come back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::offender_update::OffenderId;

/// Many times the places of a pod. An offender that is forgotten may hold places for one more lease.
const OFFENDERS_REMEMBERED: usize = 1_000;

/// A bounded memory; the oldest offenders are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct TriedInVain {
    /// Nearly always empty, so that looking through it costs nothing.
    offenders: Mutex<VecDeque<OffenderId>>,
}

impl TriedInVain {
    /// Remembers the offender of a row that is left.
    pub fn remember(&self, offender: OffenderId) {
        let mut offenders = self.offenders();
        if !offenders.contains(&offender) {
            offenders.push_back(offender);
        }
        if offenders.len() > OFFENDERS_REMEMBERED {
            offenders.pop_front();
        }
    }

    /// Forgets an offender of whom a row was published.
    pub fn forget(&self, offender: OffenderId) {
        self.offenders().retain(|&other| other != offender);
    }

    /// Whether a row of the offender was left, and none was published since.
    pub fn contains(&self, offender: OffenderId) -> bool {
        self.offenders().contains(&offender)
    }

    fn offenders(&self) -> MutexGuard<'_, VecDeque<OffenderId>> {
        self.offenders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_thousand_offenders_are_remembered_until_a_row_of_theirs_is_published() {
        let memory = TriedInVain::default();
        for offender in 0..1_001 {
            memory.remember(OffenderId(offender));
            memory.remember(OffenderId(offender));
        }
        assert!(!memory.contains(OffenderId(0)));
        assert!(memory.contains(OffenderId(1)) && memory.contains(OffenderId(1_000)));
        memory.forget(OffenderId(1));
        assert!(!memory.contains(OffenderId(1)));
    }
}
