//! When polls happen, with a source and a topic that do nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Poller;
use crate::config::PollerSettings;
use crate::config::tests::poller_settings;
use crate::event::{Event, Identifiers};
use crate::metrics::Metrics;
use crate::offender_update::{ClaimedRow, OffenderDeltaId, OffenderId};
use crate::outcome::{PollResult, Reason};
use crate::ports::{CallError, CallErrorKind, Topic, Updates};

const DELAY: Duration = Duration::from_secs(10);

/// A source without rows, which notes when it was asked.
#[derive(Clone, Default)]
struct Nothing {
    asked: Arc<Mutex<Vec<Instant>>>,
    refuses: Option<CallError>,
    hangs: bool,
}

impl Updates for Nothing {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        self.asked.lock().unwrap().push(Instant::now());
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.refuses.clone().map_or(Ok(None), Err)
    }

    async fn identifiers(&self, _: OffenderId) -> Result<Option<Identifiers>, CallError> {
        Ok(None)
    }

    async fn delete(&self, _: OffenderDeltaId) -> Result<(), CallError> {
        Ok(())
    }

    async fn mark_as_failed(&self, _: OffenderDeltaId) -> Result<(), CallError> {
        Ok(())
    }
}

impl Topic for Nothing {
    async fn publish(&self, _: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        Ok(Vec::new())
    }
}

/// Serves one row. Every other call panics.
#[derive(Clone)]
struct OneRowThatPanics(Arc<Mutex<Option<ClaimedRow>>>);

impl Updates for OneRowThatPanics {
    async fn next(&self) -> Result<Option<ClaimedRow>, CallError> {
        Ok(self.0.lock().unwrap().take())
    }

    async fn identifiers(&self, _: OffenderId) -> Result<Option<Identifiers>, CallError> {
        panic!("planted")
    }

    async fn delete(&self, _: OffenderDeltaId) -> Result<(), CallError> {
        panic!("planted")
    }

    async fn mark_as_failed(&self, _: OffenderDeltaId) -> Result<(), CallError> {
        panic!("planted")
    }
}

fn settings() -> PollerSettings {
    PollerSettings {
        fixed_delay: DELAY,
        ..poller_settings()
    }
}

/// The times of the polls in the first minute and a half.
async fn polls(source: Nothing) -> Vec<Duration> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let poller = Poller::new(source.clone(), source.clone(), settings(), metrics.clone());
    let start = Instant::now();
    let stop = CancellationToken::new();
    let ended = async {
        sleep(Duration::from_secs(90)).await;
        stop.cancel();
    };
    tokio::join!(poller.run(&stop), ended);
    let asked = source.asked.lock().unwrap();
    assert_eq!(metrics.polls.get(), asked.len() as u64);
    asked.iter().map(|at| at.duration_since(start)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_is_immediate_and_the_second_at_a_random_time() {
    let mut second = Vec::new();
    for _ in 0..10 {
        let polls = polls(Nothing::default()).await;
        assert_eq!(polls[0], Duration::ZERO);
        assert!(polls[1] <= DELAY + Duration::from_millis(1));
        for pair in polls[1..].windows(2) {
            let between = pair[1].saturating_sub(pair[0]);
            assert!(between >= DELAY && between <= DELAY + Duration::from_millis(1));
        }
        second.push(polls[1]);
    }
    second.sort();
    second.dedup_by_key(|at| at.as_millis());
    assert!(second.len() > 5, "pods poll in step: {second:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_poll_the_next_waits_for_retry_after() {
    let refuses = CallError {
        retry_after: Some(Duration::from_secs(40)),
        ..CallError::new(CallErrorKind::Unavailable, "answered 503")
    };
    let source = Nothing {
        refuses: Some(refuses),
        ..Nothing::default()
    };
    let polls = polls(source).await;
    let seconds: Vec<_> = polls.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [0, 40, 80]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_followed_by_another_try_within_the_same_poll() {
    let refuses = CallError::new(CallErrorKind::Contended, "answered 409");
    let source = Nothing {
        refuses: Some(refuses),
        ..Nothing::default()
    };
    let asked = source.asked.clone();
    let polling = tokio::time::timeout(Duration::from_secs(5), async { polls(source).await.len() });
    assert!(polling.await.is_err());
    assert!(asked.lock().unwrap().len() > 3);
}

#[tokio::test(start_paused = true)]
async fn a_panicked_row_returns_its_place_and_stops_nothing() {
    let row = br#"{"offenderDeltaId":7,"offenderId":1,"dateChanged":"2020-07-19T13:56:43","action":"UPSERT",
        "sourceTable":"ALIAS","sourceRecordId":3,"failedUpdate":false}"#;
    let source = OneRowThatPanics(Arc::new(Mutex::new(ClaimedRow::from_json(row).unwrap())));
    let metrics = Arc::new(Metrics::new().unwrap());
    let poller = Poller::new(source, Nothing::default(), settings(), metrics.clone());
    let stop = CancellationToken::new();
    let ended = async {
        sleep(Duration::from_secs(90)).await;
        stop.cancel();
    };
    tokio::join!(poller.run(&stop), ended);
    let panicked = metrics.left_locked.of(Reason::Panicked);
    assert_eq!((metrics.read.get(), panicked.get()), (1, 1));
    assert_eq!(metrics.held.get(), 0);
    assert!(metrics.polls.get() > 8);
}

#[tokio::test(start_paused = true)]
async fn retry_after_delays_the_next_poll() {
    for kind in [CallErrorKind::Contended, CallErrorKind::Unavailable] {
        let source = Nothing {
            refuses: Some(CallError {
                retry_after: Some(Duration::from_mins(5)),
                ..CallError::new(kind, "too much to do")
            }),
            ..Nothing::default()
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let poller = Poller::new(source.clone(), source.clone(), settings(), metrics.clone());
        let stop = CancellationToken::new();
        let ended = async {
            sleep(Duration::from_secs(601)).await;
            stop.cancel();
        };
        tokio::join!(poller.run(&stop), ended);
        // Immediately, after 5 minutes and after 10. Each is a poll with a result.
        assert_eq!(source.asked.lock().unwrap().len(), 3, "{kind:?}");
        let results = &metrics.poll_results;
        let ended = results.of(PollResult::Contended).get() + results.of(PollResult::Failed).get();
        assert_eq!((metrics.polls.get(), ended), (3, 3), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_claim_is_counted_and_not_repeated_immediately() {
    let source = Nothing {
        hangs: true,
        ..Nothing::default()
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let poller = Poller::new(source.clone(), source.clone(), settings(), metrics.clone());
    let stop = CancellationToken::new();
    let ended = async {
        sleep(Duration::from_secs(90)).await;
        stop.cancel();
    };
    tokio::join!(poller.run(&stop), ended);
    // After 35 s each, with an interval between them. The third is still under way when the grace period ends.
    assert_eq!(metrics.polls.get(), 3);
    assert_eq!(metrics.claims_without_answer.get(), 2);
    assert_eq!(source.asked.lock().unwrap().len(), 3);
}
