//! The poll loop's sign of life. Liveness follows it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The interval of beats during a wait.
const BEAT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Heartbeat {
    last_beat: Arc<Mutex<Instant>>,
    silence_allowed: Duration,
}

impl Heartbeat {
    /// Counts as stopped after `silence_allowed` without a beat.
    #[must_use]
    pub fn new(silence_allowed: Duration) -> Self {
        Self {
            last_beat: Arc::new(Mutex::new(Instant::now())),
            silence_allowed,
        }
    }

    /// Records that the poll loop makes progress.
    pub fn beat(&self) {
        *self.last_beat.lock() = Instant::now();
    }

    /// Beats during a wait that may be long and is not a call.
    pub async fn beat_while<F: Future>(&self, wait: F) -> F::Output {
        tokio::pin!(wait);
        loop {
            self.beat();
            tokio::select! {
                biased;
                output = &mut wait => return output,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.last_beat.lock().elapsed() <= self.silence_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_makes_no_progress_for_too_long_is_not_alive() {
        let heartbeat = Heartbeat::new(Duration::from_mins(1));
        advance(Duration::from_mins(1)).await;
        assert!(heartbeat.is_alive());
        advance(Duration::from_secs(1)).await;
        assert!(!heartbeat.is_alive());
        heartbeat.beat();
        assert!(heartbeat.is_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_for_nothing_bad_beats_all_the_time() {
        let heartbeat = Heartbeat::new(Duration::from_mins(1));
        let listener = heartbeat.clone();
        let listening = tokio::spawn(async move {
            for _ in 0..600 {
                sleep(Duration::from_secs(1)).await;
                assert!(listener.is_alive());
            }
        });
        heartbeat.beat_while(listening).await.unwrap();
    }
}
