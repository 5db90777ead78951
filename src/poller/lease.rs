//! The time that a pod has for a claimed row, before the row's lock expires and another pod may claim it.

use std::time::Duration;

use tokio::time::Instant;

/// The part of the lock that is not used. It covers the difference between two clocks, and the last call.
const MARGIN_PERCENT: u32 = 5;

/// The lease of one row. All work on the row fits inside it, except the first delete of a published row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    claimed_at: Instant,
    lock_expiry: Duration,
}

impl Lease {
    /// The lease of a row whose claim was **sent** at `claimed_at`. The lock was set later, so the lease never ends
    /// after the lock.
    pub fn from_claim(claimed_at: Instant, lock_expiry: Duration) -> Self {
        Self {
            claimed_at,
            lock_expiry,
        }
    }

    /// When the claim was sent.
    pub fn claimed_at(&self) -> Instant {
        self.claimed_at
    }

    /// The time left, or zero once the lease has ended.
    pub fn remaining(&self, now: Instant) -> Duration {
        let margin = self.lock_expiry * MARGIN_PERCENT / 100;
        self.comes_back_in(now).saturating_sub(margin)
    }

    /// The time until community-api may serve the row again.
    pub fn comes_back_in(&self, now: Instant) -> Duration {
        (self.claimed_at + self.lock_expiry).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_before_the_lock_and_counts_from_the_claim() {
        let claimed_at = Instant::now();
        let lease = Lease::from_claim(claimed_at, Duration::from_mins(10));
        for (after, remaining, comes_back_in) in [
            (0, 570, 600),
            (20, 550, 580),
            (570, 0, 30),
            (580, 0, 20),
            (700, 0, 0),
        ] {
            let now = claimed_at + Duration::from_secs(after);
            assert_eq!(lease.remaining(now), Duration::from_secs(remaining));
            assert_eq!(lease.comes_back_in(now), Duration::from_secs(comes_back_in));
        }
    }
}
