//! The poll loop's heartbeat, which the liveness probe checks.

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
    /// The loop counts as stopped after `silence_allowed` without a beat.
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

    /// Sends heartbeats until `wait` ends. Do not use it for calls: a call that hangs must stop the heartbeat.
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
    async fn a_long_wait_keeps_beating() {
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
