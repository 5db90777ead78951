//! How the last claim went. `/health` shows it beside community-api's ping, which stays UP while its database is down.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::outcome::PollResult;

/// How the last claim went, and when it ended. A clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct LastClaim(Arc<Mutex<Option<(PollResult, Instant)>>>);

impl LastClaim {
    pub(crate) fn set(&self, outcome: PollResult) {
        let ended = (outcome, Instant::now());
        *self.0.lock() = Some(ended);
    }

    /// How the last claim ended, and how long ago; `None` before the first.
    #[must_use]
    pub fn get(&self) -> Option<(PollResult, Duration)> {
        let last = *self.0.lock();
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
        last_claim.clone().set(PollResult::Found);
        last_claim.clone().set(PollResult::Failed);
        advance(Duration::from_secs(7)).await;
        assert_eq!(
            last_claim.get(),
            Some((PollResult::Failed, Duration::from_secs(7)))
        );
    }
}
