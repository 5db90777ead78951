//! How the last claim went: what `/health` shows beside community-api's ping, which stays UP while its database is dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How the last claim went, and when it ended. A clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct LastClaim(Arc<Mutex<Option<(&'static str, Instant)>>>);

impl LastClaim {
    /// Notes how a claim ended, in a word of [`super::POLL_RESULTS`].
    pub fn set(&self, outcome: &'static str) {
        let ended = (outcome, Instant::now());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }

    /// How the last claim ended, and how long ago; `None` before the first.
    #[must_use]
    pub fn get(&self) -> Option<(&'static str, Duration)> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|(outcome, at)| (outcome, at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_of_several_claims_counts() {
        let last_claim = LastClaim::default();
        assert_eq!(last_claim.get(), None);
        last_claim.clone().set("found");
        last_claim.clone().set("failed");
        advance(Duration::from_secs(7)).await;
        assert_eq!(last_claim.get(), Some(("failed", Duration::from_secs(7))));
    }
}
