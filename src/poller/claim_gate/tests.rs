//! When rows may be claimed, in paused time: the gate alone, told how calls go.

use super::*;
use futures_util::FutureExt;
use prometheus::Opts;
use tokio::time::{advance, timeout};

fn gate() -> ClaimGate {
    let by = IntGaugeVec::new(Opts::new("suspended_by", "help"), &["step"]).unwrap();
    ClaimGate::new(IntGauge::new("suspended", "help").unwrap(), by)
}

fn open_now(gate: &ClaimGate) -> bool {
    gate.may_claim().now_or_never().is_some()
}

async fn fail(gate: &ClaimGate, step: Step, first: bool) {
    let started = Instant::now();
    advance(Duration::from_millis(10)).await;
    assert!(!gate.failed(step, started, first, &CallError::unavailable("500")));
}

async fn get_through(gate: &ClaimGate, step: Step) {
    advance(Duration::from_millis(1)).await;
    gate.got_through(step, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn claims_stop_when_a_call_fails_and_resume_with_one_row_and_then_fully() {
    let gate = gate();
    let row = gate.row_in_flight();
    assert!(open_now(&gate));
    fail(&gate, Step::Publish, true).await;
    assert!(!open_now(&gate));
    assert_eq!(gate.suspended.get(), 1);
    let suspended_by = |step| gate.suspended_by.with_label_values(&[step]).get();
    assert_eq!((suspended_by("publish"), suspended_by("delete")), (1, 0));
    get_through(&gate, Step::Identifiers).await;
    assert!(
        !open_now(&gate),
        "another step says nothing about publishing"
    );
    get_through(&gate, Step::Publish).await;
    assert!(open_now(&gate));
    assert!(!open_now(&gate), "one row first");
    drop(row);
    assert!(open_now(&gate) && open_now(&gate));
    assert_eq!((gate.suspended.get(), suspended_by("publish")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_fails_while_later_calls_get_through_suspends_nothing() {
    let gate = gate();
    let started = Instant::now();
    get_through(&gate, Step::Identifiers).await;
    assert!(gate.failed(
        Step::Identifiers,
        started,
        true,
        &CallError::unavailable("500")
    ));
    assert!(open_now(&gate));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_started_before_the_failing_one_is_no_sign_that_others_get_through() {
    let gate = gate();
    let before = Instant::now();
    advance(Duration::from_millis(5)).await;
    let started = Instant::now();
    gate.got_through(Step::Publish, before);
    assert!(!gate.failed(Step::Publish, started, true, &CallError::unavailable("500")));
    assert!(!open_now(&gate));
}

#[tokio::test(start_paused = true)]
async fn probes_are_claimed_at_growing_intervals_up_to_a_limit() {
    let gate = gate();
    fail(&gate, Step::Publish, true).await;
    let mut waits = Vec::new();
    for _ in 0..40 {
        let asked = Instant::now();
        gate.may_claim().await;
        waits.push(asked.elapsed());
        fail(&gate, Step::Publish, true).await;
    }
    assert!(waits.is_sorted());
    let limit = LONGEST_PROBE + Duration::from_millis(1);
    assert!(
        waits[0] <= FIRST_PROBE + Duration::from_millis(1) && waits[39] <= limit,
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_claimer_that_waits_for_the_first_row_after_the_trouble_never_waits_for_ever() {
    let gate = gate();
    let _held = gate.row_in_flight();
    fail(&gate, Step::Publish, true).await;
    get_through(&gate, Step::Publish).await;
    gate.may_claim().await;
    let waiting = gate.may_claim();
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    fail(&gate, Step::Publish, true).await;
    assert!(timeout(Duration::from_secs(10), waiting).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_first_row_that_hangs_after_the_trouble_holds_up_the_next_for_seconds_only() {
    let gate = gate();
    let _held = gate.row_in_flight();
    fail(&gate, Step::Publish, true).await;
    get_through(&gate, Step::Publish).await;
    gate.may_claim().await;
    assert!(timeout(RESUME_PATIENCE * 2, gate.may_claim()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_failed_is_given_back_and_an_empty_table_ends_the_suspension() {
    let gate = gate();
    fail(&gate, Step::Publish, true).await;
    gate.claim_found_nothing(1);
    assert_eq!(gate.suspended.get(), 1, "a row is held");
    gate.claim_failed();
    assert_eq!(gate.suspended.get(), 1, "who knows what there is");
    gate.claim_found_nothing(0);
    assert_eq!(gate.suspended.get(), 0);
    assert!(open_now(&gate));
    gate.claim_failed();
    assert!(open_now(&gate));
}

#[tokio::test(start_paused = true)]
async fn a_wanted_place_is_asked_of_one_row_that_may_go() {
    let gate = gate();
    let wanted = gate.want_place();
    let minute = Duration::from_mins(1);
    assert!(
        timeout(minute, gate.place_is_needed(|| false))
            .await
            .is_err()
    );
    assert!(timeout(minute, gate.place_is_needed(|| true)).await.is_ok());
    assert!(
        timeout(minute, gate.place_is_needed(|| true))
            .await
            .is_err()
    );
    let other = gate.want_place();
    drop(wanted);
    assert!(timeout(minute, gate.place_is_needed(|| true)).await.is_ok());
    drop(other);
    assert!(gate.state().places_wanted.is_empty());
}

#[test]
fn two_offenders_are_known_so_that_there_is_one_besides_the_one_in_trouble() {
    let gate = gate();
    for offender in [1, 2, 2, 2] {
        gate.remember_offender(OffenderId(offender));
    }
    assert_eq!(
        gate.known_offender_besides(OffenderId(2)),
        Some(OffenderId(1))
    );
    assert_eq!(
        gate.known_offender_besides(OffenderId(3)),
        Some(OffenderId(2))
    );
}
