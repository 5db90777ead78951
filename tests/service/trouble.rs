//! Outages, slow answers, lost answers and throttling: claimed rows are retried, and nothing is lost.

use std::time::Duration;

use crate::world::{
    QUICK, World, add, add_rows, event_types, eventually, expire_locks, row, sandbox,
};
use sandbox::delius::{NewUpdate, Status};
use sandbox::{Endpoint, Fault, Rule, Sandbox};

const FAILED: &str = "offender_updates_total{type=\"failed\"}";
const PERMANENTLY_FAILED: &str = "offender_updates_total{type=\"permanentlyFailed\"}";
const HELD: &str = "offender_updates_in_flight";

/// Deletes an offender, and the row that this writes.
fn delete_offender(sandbox: &Sandbox, id: i64) {
    let sql = format!("DELETE FROM offender WHERE offender_id = {id}; DELETE FROM offender_delta");
    sandbox.delius().execute(&sql).unwrap();
}

#[tokio::test]
async fn starts_when_everything_around_it_is_down_and_recovers_by_itself() {
    let sandbox = sandbox().await;
    for endpoint in [
        Endpoint::Token,
        Endpoint::AuthPing,
        Endpoint::NextUpdate,
        Endpoint::Identifiers,
        Endpoint::CommunityPing,
        Endpoint::PublishBatch,
        Endpoint::TopicAttributes,
    ] {
        sandbox.faults().always(endpoint, Fault::DropConnection);
    }
    add_rows(&sandbox, 1, 1..=20);
    let world = World::around(sandbox, &QUICK).await;
    world
        .until("offender_poll_total", |polls| polls > 3.0)
        .await;
    assert!(world.is_live().await);
    world.sandbox.faults().clear();
    world.messages(20).await;
    world.drained().await;
    assert_eq!(world.sandbox.topic().len(), 20);
    world.stop().await;
}

#[tokio::test]
async fn a_lost_publish_answer_causes_a_counted_redelivery_with_the_same_id() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .once(Endpoint::PublishBatch, Fault::LoseAnswer);
    add(&sandbox, row(1, "ALIAS"));
    let world = World::around(sandbox, &[]).await;
    let messages = world.messages(4).await;
    world.drained().await;
    let types = [
        "OFFENDER_CHANGED",
        "OFFENDER_ALIAS_CHANGED",
        "OFFENDER_CHANGED",
        "OFFENDER_ALIAS_CHANGED",
    ];
    assert_eq!(event_types(&messages), types);
    for (first, second) in [(0, 2), (1, 3)] {
        assert_eq!(
            messages[first].attributes["id"],
            messages[second].attributes["id"]
        );
        assert_eq!(messages[first].body, messages[second].body);
    }
    assert_eq!(
        world
            .metric("offender_updates_redelivered_total{cause=\"answer_lost\"}")
            .await,
        1.0
    );
    world.stop().await;
}

#[tokio::test]
async fn only_the_entries_of_a_batch_that_failed_are_published_again() {
    for entry in [0, 1] {
        let sandbox = sandbox().await;
        let fault = Fault::SnsEntryError {
            entry: Some(entry),
            code: "InternalError".into(),
            sender_fault: false,
        };
        sandbox.faults().once(Endpoint::PublishBatch, fault);
        add(&sandbox, row(1, "ALIAS"));
        let world = World::around(sandbox, &[]).await;
        world.messages(2).await;
        world.drained().await;
        assert_eq!(world.sandbox.topic().len(), 2);
        assert_eq!(world.sandbox.faults().calls(Endpoint::PublishBatch), 2);
        world.stop().await;
    }
}

#[tokio::test]
async fn a_failed_delete_is_repeated_without_a_publish() {
    let sandbox = sandbox().await;
    for fault in [Fault::status(500), Fault::DropConnection, Fault::LoseAnswer] {
        sandbox.faults().once(Endpoint::DeleteUpdate, fault);
    }
    add(&sandbox, row(1, "CONTACT"));
    let world = World::around(sandbox, &[]).await;
    world.drained().await;
    world.until(HELD, |rows| rows == 0.0).await;
    assert_eq!(world.sandbox.topic().len(), 1);
    assert_eq!(world.sandbox.faults().calls(Endpoint::DeleteUpdate), 4);
    world.stop().await;
}

#[tokio::test]
async fn a_failing_delete_does_not_delay_the_offenders_next_row() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::DeleteUpdate, Fault::status(500));
    add_rows(&sandbox, 1, 1..=5);
    let world = World::around(sandbox, &[]).await;
    world.messages(5).await;
    world.sandbox.faults().clear();
    world.drained().await;
    assert_eq!(world.sandbox.topic().len(), 5);
    world.stop().await;
}

#[tokio::test]
async fn rows_that_cannot_be_marked_delay_no_others() {
    let sandbox = sandbox().await;
    delete_offender(&sandbox, 1);
    sandbox
        .faults()
        .always(Endpoint::MarkAsFailed, Fault::status(403));
    add_rows(&sandbox, 1, 1..=8);
    expire_locks(&sandbox);
    let world = World::around(sandbox, &[]).await;
    eventually("they are tried", async || {
        world.sandbox.faults().calls(Endpoint::MarkAsFailed) >= 8
    })
    .await;
    add_rows(&world.sandbox, 2, 1..=100);
    world.messages(100).await;
    let in_trouble = "offender_rows_in_trouble{step=\"mark_as_failed\"}";
    world.until(in_trouble, |rows| rows == 8.0).await;
    assert_eq!(
        world.metric("offender_permanent_failure_brake_on").await,
        0.0
    );
    world.stop().await;
}

/// Row ids are reused when a database is refreshed.
#[tokio::test]
async fn a_change_with_the_row_id_of_a_published_one_is_published() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::DeleteUpdate, Fault::status(500));
    let insert = |offender: i64, table: &str| {
        format!(
            "DELETE FROM offender_delta;
             INSERT INTO offender_delta (offender_delta_id, offender_id, date_changed, action, source_table, source_record_id)
             VALUES (1, {offender}, '2020-07-19T13:56:43', 'UPSERT', '{table}', 1)"
        )
    };
    sandbox.delius().execute(&insert(1, "CONTACT")).unwrap();
    let world = World::around(sandbox, &QUICK).await;
    world.messages(1).await;
    world
        .sandbox
        .delius()
        .execute(&insert(2, "DISPOSAL"))
        .unwrap();
    let messages = world.messages(2).await;
    assert_eq!(
        event_types(&messages),
        ["CONTACT_CHANGED", "SENTENCE_CHANGED"]
    );
    assert_ne!(messages[0].attributes["id"], messages[1].attributes["id"]);
    world.stop().await;
}

/// Like a change that is written again, by hand or from a backup.
#[tokio::test]
async fn a_deleted_change_that_returns_is_published_with_the_same_id() {
    let world = World::start().await;
    let insert = "INSERT INTO offender_delta (offender_delta_id, offender_id, date_changed, action, source_table, source_record_id)
                  VALUES (77, 1, '2020-07-19T13:56:43', 'UPSERT', 'CONTACT', 1)";
    for count in 1..=2 {
        world.sandbox.delius().execute(insert).unwrap();
        world.messages(count).await;
        world.drained().await;
        // The pod now knows that the row is gone.
        world.until(HELD, |rows| rows == 0.0).await;
    }
    let messages = world.messages(2).await;
    assert_eq!(messages[0].attributes["id"], messages[1].attributes["id"]);
    world.stop().await;
}

#[tokio::test]
async fn conflicts_are_not_failures_and_retry_after_is_respected() {
    let sandbox = sandbox().await;
    for _ in 0..2 {
        sandbox
            .faults()
            .once(Endpoint::NextUpdate, Fault::status(409));
    }
    sandbox.faults().once(
        Endpoint::Identifiers,
        Fault::status(429).header("Retry-After", "1"),
    );
    add(&sandbox, row(1, "CONTACT"));
    let started = tokio::time::Instant::now();
    let world = World::around(sandbox, &[]).await;
    world.messages(1).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    let contended = "offender_poll_results_total{result=\"contended\"}";
    assert_eq!(world.metric(contended).await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn bad_rows_delay_no_good_ones() {
    let sandbox = sandbox().await;
    sandbox.delius().seed_people(300).unwrap();
    // More bad offenders than places in flight, one after the other.
    for (record, offender) in (1..).zip(100..300) {
        add(
            &sandbox,
            NewUpdate {
                source_record_id: Some(record),
                ..row(offender, "CONTACT")
            },
        );
        if (120..130).contains(&offender) {
            let rule = Rule {
                offender_id: Some(offender),
                ..Rule::new(Endpoint::Identifiers, Fault::status(500))
            };
            sandbox.faults().inject(rule);
        }
    }
    let world = World::around(sandbox, &[("OFFENDERUPDATEPOLL_MAXINFLIGHT", "8")]).await;
    world.messages(190).await;
    let in_trouble = "offender_rows_in_trouble{step=\"identifiers\"}";
    world.until(in_trouble, |rows| rows == 10.0).await;
    world.stop().await;
}

#[tokio::test]
async fn forty_rows_of_one_bad_offender_delay_no_others() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=40);
    add_rows(&sandbox, 2, 1..=100);
    let bad = Rule::new(Endpoint::Identifiers, Fault::status(500));
    sandbox.faults().inject(Rule {
        offender_id: Some(1),
        ..bad
    });
    let world = World::around(sandbox, &[]).await;
    world.messages(100).await;
    world.stop().await;
}

#[tokio::test]
async fn a_row_of_an_unknown_offender_is_left_then_marked() {
    let sandbox = sandbox().await;
    delete_offender(&sandbox, 3);
    add(&sandbox, row(3, "ALIAS"));
    let world = World::around(sandbox, &[]).await;
    world.until(FAILED, |rows| rows == 1.0).await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::MarkAsFailed), 0);
    expire_locks(&world.sandbox);
    world.until(PERMANENTLY_FAILED, |rows| rows == 1.0).await;
    let rows = world.sandbox.delius().updates().unwrap();
    assert_eq!(rows[0].status, Status::Failed);
    assert_eq!(world.metric(FAILED).await, 1.0);
    assert!(world.sandbox.topic().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_row_deleted_by_others_is_settled() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::DeleteUpdate, Fault::status(404));
    add(&sandbox, row(1, "ALIAS"));
    let world = World::around(sandbox, &[]).await;
    world.messages(2).await;
    world.until(HELD, |rows| rows == 0.0).await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::DeleteUpdate), 1);
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_row_that_is_gone_when_it_is_marked_is_settled() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::MarkAsFailed, Fault::status(404));
    delete_offender(&sandbox, 3);
    add(&sandbox, row(3, "ALIAS"));
    expire_locks(&sandbox);
    let world = World::around(sandbox, &[]).await;
    eventually("the row is settled", async || {
        world.sandbox.faults().calls(Endpoint::MarkAsFailed) > 0 && world.metric(HELD).await == 0.0
    })
    .await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::MarkAsFailed), 1);
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_row_with_a_refused_message_is_left_then_marked() {
    let sandbox = sandbox().await;
    let refuse = Fault::SnsEntryError {
        entry: None,
        code: "InvalidParameter".into(),
        sender_fault: true,
    };
    sandbox.faults().inject(Rule {
        offender_id: Some(1),
        ..Rule::new(Endpoint::PublishBatch, refuse)
    });
    add(&sandbox, row(1, "ALIAS"));
    add(&sandbox, row(2, "CONTACT"));
    let world = World::around(sandbox, &[]).await;
    eventually("the good row is deleted", async || {
        world.sandbox.delius().count_updates().unwrap() == 1
    })
    .await;
    world.until(FAILED, |rows| rows == 1.0).await;
    expire_locks(&world.sandbox);
    world.until(PERMANENTLY_FAILED, |rows| rows == 1.0).await;
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_published_row_that_is_claimed_again_is_only_deleted() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::DeleteUpdate, Fault::status(500));
    sandbox.delius().set_timings(sandbox::Timings {
        serve_after_seconds: 0,
        lock_expiry_seconds: 2,
    });
    add(&sandbox, row(1, "CONTACT"));
    let short = [
        ("OFFENDERUPDATEPOLL_LOCKEXPIRY", "2s"),
        ("API_CLAIMTIMEOUT", "1900ms"),
    ];
    let lease = [&QUICK[..], &short].concat();
    let world = World::around(sandbox, &lease).await;
    let claimed = "offender_updates_total{type=\"read\"}";
    world.until(claimed, |rows| rows >= 2.0).await;
    world.sandbox.faults().clear();
    world.drained().await;
    assert_eq!(world.sandbox.topic().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn many_permanent_failures_turn_the_brake_on() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .always(Endpoint::Identifiers, Fault::status(404));
    add_rows(&sandbox, 1, 1..=15);
    expire_locks(&sandbox);
    let world = World::around(sandbox, &[]).await;
    let left = "offender_updates_left_locked_total{reason=\"brake\"}";
    world.until(left, |rows| rows == 5.0).await;
    assert_eq!(
        world.metric("offender_permanent_failure_brake_on").await,
        1.0
    );
    assert_eq!(world.metric(PERMANENTLY_FAILED).await, 10.0);
    assert_eq!(world.sandbox.faults().calls(Endpoint::MarkAsFailed), 10);
    world.stop().await;
}

#[tokio::test]
async fn a_stop_settles_held_rows_and_leaves_nothing_locked() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=5);
    add_rows(&sandbox, 2, 1..=200);
    for endpoint in [Endpoint::NextUpdate, Endpoint::PublishBatch] {
        sandbox
            .faults()
            .always(endpoint, Fault::Latency(Duration::from_millis(20)));
    }
    let world = World::around(sandbox, &[]).await;
    world.messages(10).await;
    let sandbox = world.stop().await;
    let rows = sandbox.delius().updates().unwrap();
    assert!(
        rows.len() > 10,
        "the service must stop in the middle of the drain"
    );
    assert!(rows.iter().all(|row| row.status == Status::Created));
    assert_eq!(sandbox.topic().len() + rows.len(), 205);
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_the_grace_period() {
    let sandbox = sandbox().await;
    sandbox.faults().always(Endpoint::PublishBatch, Fault::Hang);
    add_rows(&sandbox, 1, 1..=3);
    let world = World::around(sandbox, &[("SHUTDOWN_GRACEPERIOD", "300ms")]).await;
    world.until(HELD, |rows| rows > 0.0).await;
    let started = tokio::time::Instant::now();
    let sandbox = world.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(sandbox.delius().count_updates().unwrap(), 3);
}

#[tokio::test]
async fn with_polling_off_nothing_is_claimed_and_the_pod_is_live() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=1);
    let world = World::around(sandbox, &[("OFFENDERUPDATEPOLL_ENABLED", "false")]).await;
    assert!(world.is_live().await);
    assert_eq!(world.metric("offender_poll_total").await, 0.0);
    let sandbox = world.stop().await;
    assert_eq!(sandbox.faults().calls(Endpoint::NextUpdate), 0);
}

#[tokio::test]
async fn rows_that_go_well_count_no_redelivery() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=20);
    add(&sandbox, row(2, "ALIAS"));
    let world = World::around(sandbox, &[]).await;
    world.messages(22).await;
    world.drained().await;
    for cause in ["answer_lost", "claimed_again", "lease_overrun"] {
        let metric = format!("offender_updates_redelivered_total{{cause=\"{cause}\"}}");
        assert_eq!(world.metric(&metric).await, 0.0, "{cause}");
    }
    world.stop().await;
}

/// As large as an answer can be, mostly with fields that are not needed.
#[tokio::test]
async fn large_answers_with_odd_fields_are_read() {
    let sandbox = sandbox().await;
    let more = "{\"\":0},".repeat(120_000);
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let identifiers = format!(
        "\u{feff}{{\"offenderId\":1.0,\"primaryIdentifiers\":{{\"crn\":\"X000001\",\"odd\":\"\\ud800\"}},\
         \"more\":[{more}{deep},1e400]}}"
    );
    let answer = Fault::body(200, identifiers);
    sandbox.faults().once(Endpoint::Identifiers, answer);
    add(&sandbox, row(1, "CONTACT"));
    let world = World::around(sandbox, &[]).await;
    let messages = world.messages(1).await;
    assert!(
        messages[0]
            .body
            .starts_with(r#"{"offenderId":1,"crn":"X000001","sourceId""#)
    );
    assert_eq!(world.sandbox.faults().calls(Endpoint::Identifiers), 1);
    world.stop().await;
}
