//! The time that a pod has for a claimed row, before the row's lock runs out and another pod may claim it.

use std::time::Duration;

use tokio::time::Instant;

/// How much of the lock's life is not used, for the difference between two clocks and the length of the last call.
const MARGIN_PERCENT: u32 = 5;

/// The lease of one row. Everything that is done for the row fits inside it.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    claimed_at: Instant,
    end: Instant,
    lock_end: Instant,
}

impl Lease {
    /// The lease of a row whose claim was **sent** at `claimed_at`. The lock may have been set at any time after that, so
    /// the lease never ends later than the lock.
    #[must_use]
    pub fn from_claim(claimed_at: Instant, lock_expiry: Duration) -> Self {
        Self {
            claimed_at,
            end: claimed_at + lock_expiry - lock_expiry * MARGIN_PERCENT / 100,
            lock_end: claimed_at + lock_expiry,
        }
    }

    /// When the claim was sent.
    #[must_use]
    pub fn claimed_at(&self) -> Instant {
        self.claimed_at
    }

    /// What is left, zero once it has ended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Time until community-api may serve the row to anybody again.
    #[must_use]
    pub fn comes_back_in(&self) -> Duration {
        self.lock_end.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_before_the_lock_and_counts_from_the_claim() {
        let claimed_at = Instant::now();
        advance(Duration::from_secs(20)).await;
        let lease = Lease::from_claim(claimed_at, Duration::from_mins(10));
        assert_eq!(lease.remaining(), Duration::from_secs(550));
        assert_eq!(lease.comes_back_in(), Duration::from_secs(580));
        advance(Duration::from_secs(560)).await;
        assert_eq!(lease.remaining(), Duration::ZERO);
        assert_eq!(lease.comes_back_in(), Duration::from_secs(20));
    }
}
