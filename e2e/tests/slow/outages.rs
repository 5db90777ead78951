//! Outages, dead connections and slow answers that take their time.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::proxy::{self, Fate};
use crate::world::{QUICK, World, add, add_rows, row, sandbox, sandbox_with};
use sandbox::{Endpoint, Fault};

#[tokio::test]
async fn an_outage_of_each_call_holds_few_rows_and_strands_none() {
    for (endpoint, fault) in [
        (Endpoint::Identifiers, Fault::status(503)),
        (Endpoint::Identifiers, Fault::Hang),
        (Endpoint::Identifiers, Fault::DropConnection),
        (Endpoint::PublishBatch, Fault::sns(500, "InternalError")),
        (
            Endpoint::PublishBatch,
            Fault::sns(403, "AuthorizationError"),
        ),
        (Endpoint::PublishBatch, Fault::sns(404, "NotFound")),
        (Endpoint::PublishBatch, Fault::sns(400, "Throttled")),
        (Endpoint::PublishBatch, Fault::Hang),
        (
            Endpoint::PublishBatch,
            Fault::SnsEntryError {
                entry: None,
                code: "InternalError".into(),
                sender_fault: false,
            },
        ),
        (Endpoint::DeleteUpdate, Fault::status(500)),
    ] {
        let sandbox = sandbox().await;
        sandbox.faults().always(endpoint, fault.clone());
        sandbox.delius().seed_people(200).unwrap();
        for offender in 1..=200 {
            add_rows(&sandbox, offender, 1..=1);
        }
        let world = World::around(sandbox, &QUICK).await;
        world
            .until("offender_places_lost", |lost| lost >= 31.0)
            .await;
        let claimed = world.metric("offender_updates_total{type=\"read\"}").await;
        assert!(
            claimed <= 40.0,
            "{claimed} rows claimed into {fault:?} of {endpoint:?}"
        );
        world.sandbox.faults().clear();
        world.drained().await;
        world
            .until("offender_places_lost", |lost| lost == 0.0)
            .await;
        assert_eq!(
            world
                .metric("offender_updates_total{type=\"published\"}")
                .await,
            200.0
        );
        // On a slow machine a publish may take longer than its limit, and is repeated.
        let messages = world.sandbox.topic().messages();
        let ids: BTreeSet<_> = messages
            .iter()
            .map(|message| &message.attributes["id"])
            .collect();
        assert_eq!(ids.len(), 200, "{fault:?} of {endpoint:?}");
        world.stop().await;
    }
}

/// Stands for an outage of 8 minutes with a lock of 10. It is a little shorter in proportion, as a margin for slow machines.
#[tokio::test]
async fn a_short_outage_of_sns_delays_rows_and_leaves_none_locked() {
    let outage = Duration::from_secs(7);
    let timings = sandbox::Timings {
        serve_after_seconds: 0,
        lock_expiry_seconds: 12,
    };
    let sandbox = sandbox_with(timings).await;
    sandbox.delius().seed_people(300).unwrap();
    for offender in 1..=300 {
        add_rows(&sandbox, offender, 1..=1);
    }
    sandbox
        .faults()
        .always(Endpoint::PublishBatch, Fault::status(503));
    let times = [
        ("OFFENDERUPDATEPOLL_LOCKEXPIRY", "12s"),
        ("API_CLAIMTIMEOUT", "10s"),
        ("API_CALLTIMEOUT", "500ms"),
        ("HMPPS_SQS_CALLTIMEOUT", "500ms"),
    ];
    let world = World::around(sandbox, &times).await;
    world
        .until("offender_updates_in_flight", |held| held > 0.0)
        .await;
    let faults = world.sandbox.faults().clone();
    let end = tokio::time::Instant::now() + outage;
    while tokio::time::Instant::now() < end {
        let held = world.metric("offender_updates_in_flight").await;
        assert!(held <= 90.0, "{held} rows held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    faults.clear();
    world.messages(300).await;
    world.drained().await;
    assert_eq!(
        world
            .metric("offender_updates_left_locked_total{reason=\"lease_ran_out\"}")
            .await,
        0.0
    );
    assert_eq!(
        world.metric("offender_updates_total{type=\"read\"}").await,
        300.0
    );
    assert_eq!(world.sandbox.topic().len(), 300);
    world.stop().await;
}

/// New connections work, so no row may have to wait for its lock.
#[tokio::test]
async fn bad_connections_are_abandoned() {
    // On a slow machine, a claim that times out would lock its row, so the limit is as long as it can be.
    for (fate, rows, limit) in [(Fate::Deaf, 2, "1s"), (Fate::Closed, 30, "10s")] {
        let sandbox = sandbox().await;
        sandbox.delius().seed_people(rows).unwrap();
        for offender in 1..=i64::try_from(rows).unwrap() {
            add(&sandbox, row(offender, "CONTACT"));
        }
        let community_api = proxy::start(&sandbox.community_url(), 1, fate).await;
        let sns = proxy::start(&sandbox.sns_url(), 1, fate).await;
        let variables = [
            ("COMMUNITY_ENDPOINT_URL", community_api.as_str()),
            ("HMPPS_SQS_LOCALSTACKURL", &sns),
            ("API_CALLTIMEOUT", limit),
            ("API_CLAIMTIMEOUT", limit),
            ("HMPPS_SQS_CALLTIMEOUT", limit),
        ];
        let world = World::around(sandbox, &variables).await;
        world.messages(rows).await;
        world.drained().await;
        let left = "offender_updates_left_locked_total{reason=\"lease_ran_out\"}";
        assert_eq!(world.metric(left).await, 0.0);
        world.stop().await;
    }
}

#[tokio::test]
async fn a_topic_slower_than_the_limit_gets_each_row_twice_at_most() {
    let sandbox = sandbox().await;
    let slow = Fault::Latency(Duration::from_millis(1_400));
    sandbox.faults().always(Endpoint::PublishBatch, slow);
    sandbox.delius().seed_people(20).unwrap();
    for offender in 1..=20 {
        add(&sandbox, row(offender, "CONTACT"));
    }
    let world = World::around(sandbox, &[("HMPPS_SQS_CALLTIMEOUT", "1s")]).await;
    world.drained().await;
    let published = world.sandbox.topic().len();
    assert!((20..=40).contains(&published), "{published} messages");
    let redelivered = "offender_updates_redelivered_total{cause=\"answer_lost\"}";
    assert_eq!(world.metric(redelivered).await, 20.0);
    world.stop().await;
}

#[tokio::test]
async fn a_short_lived_token_is_renewed_in_time() {
    let settings = sandbox::Settings {
        timings: sandbox::Timings {
            serve_after_seconds: 0,
            ..sandbox::Timings::default()
        },
        token_lifetime: Duration::from_secs(2),
        ..sandbox::Settings::default()
    };
    let world = World::around(sandbox::Sandbox::start(settings).await.unwrap(), &[]).await;
    let mut published = 0;
    while world.sandbox.auth().tokens_issued() < 4 {
        add_rows(&world.sandbox, 1, 1..=5);
        published += 5;
        world.messages(published).await;
        world.drained().await;
    }
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    world.stop().await;
}

/// The SDK's separate limit is five seconds without a byte.
#[tokio::test]
async fn a_publish_may_take_as_long_as_its_timeout() {
    let world = World::start_with(&[("HMPPS_SQS_CALLTIMEOUT", "8s")]).await;
    let slow = Fault::Latency(Duration::from_millis(6_500));
    world.sandbox.faults().always(Endpoint::PublishBatch, slow);
    add(&world.sandbox, row(1, "CONTACT"));
    world.drained().await;
    assert_eq!(world.sandbox.topic().len(), 1);
    let redelivered = "offender_updates_redelivered_total{cause=\"answer_lost\"}";
    assert_eq!(world.metric(redelivered).await, 0.0);
    world.stop().await;
}
