//! Bad answers of community-api and hmpps-auth cause no panic and lose no row, and the next row is published.

use crate::world::{World, add, event_types, row, sandbox, sandbox_with};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Rule, Sandbox, Timings};

/// Bodies that are neither a row, nor identifiers, nor a token.
fn bad_bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        "null",
        "[]",
        "[{}]",
        "{}",
        "\"row\"",
        "7",
        "true",
        "<html>Bad gateway</html>",
        "{\"offenderId\":",
        "{\"a\":1}x",
        "\u{feff}{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    bodies.push(vec![0xff, 0xfe, 0x00]);
    bodies.push(b"[".repeat(100_000));
    bodies
}

/// Whether the service still works: it publishes a row.
async fn still_works(world: &World) {
    let before = world.sandbox.topic().len();
    world.add(NewUpdate {
        source_record_id: Some(999),
        ..row(5, "CONTACT")
    });
    let messages = world.messages(before + 1).await;
    assert_eq!(event_types(&messages).last(), Some(&"CONTACT_CHANGED"));
    assert!(world.is_live().await);
}

/// All statuses except 200, which needs a body. Redirects lead to a closed port.
fn bad_statuses() -> impl Iterator<Item = Fault> {
    (201..600).map(|status| Fault::status(status).header("Location", "http://127.0.0.1:1/"))
}

const KINDS_OF_STATUS: [u16; 16] = [
    204, 301, 302, 307, 400, 401, 403, 404, 405, 409, 429, 500, 502, 503, 504, 599,
];

/// Short locks, so that a row that a bad answer left locked comes back soon.
async fn sandbox_with_short_locks() -> Sandbox {
    let timings = Timings {
        serve_after_seconds: 0,
        lock_expiry_seconds: 2,
    };
    sandbox_with(timings).await
}

const SHORT_LOCKS: [(&str, &str); 5] = [
    ("OFFENDERUPDATEPOLL_LOCKEXPIRY", "2s"),
    ("API_CLAIMTIMEOUT", "1900ms"),
    ("API_CALLTIMEOUT", "300ms"),
    ("HMPPS_SQS_CALLTIMEOUT", "300ms"),
    ("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "5"),
];

/// After each of these answers to a token request, the next request succeeds, and a row is published.
async fn survives_answers_of_auth(answers: impl Iterator<Item = Fault>) {
    let world = World::start().await;
    for fault in answers {
        world.sandbox.faults().once(Endpoint::Token, fault);
        world.sandbox.auth().revoke_all();
        still_works(&world).await;
    }
    world.stop().await;
}

async fn survives_every_status_of_a_call_for_a_row(endpoint: Endpoint) {
    let sandbox = sandbox_with_short_locks().await;
    sandbox.delius().seed_people(500).unwrap();
    for (offender, fault) in (10..).zip(bad_statuses()) {
        add(&sandbox, row(offender, "CONTACT"));
        // Not every row fails, since that would be an outage.
        for record in 1..=2 {
            let source_record_id = Some(offender * 2 + record);
            add(
                &sandbox,
                NewUpdate {
                    source_record_id,
                    ..row(1, "CONTACT")
                },
            );
        }
        sandbox.faults().inject(Rule {
            offender_id: Some(offender),
            times: Some(1),
            ..Rule::new(endpoint, fault)
        });
    }
    let world = World::around(sandbox, &SHORT_LOCKS).await;
    world.messages(3 * 399).await;
    world.drained().await;
    assert!(world.sandbox.faults().calls(endpoint) > 3 * 399);
    still_works(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn every_status_of_next_update_is_survived_and_loses_no_row() {
    let sandbox = sandbox_with_short_locks().await;
    bad_statuses().for_each(|fault| sandbox.faults().once(Endpoint::NextUpdate, fault));
    add(&sandbox, row(1, "CONTACT"));
    let world = World::around(sandbox, &SHORT_LOCKS).await;
    world.messages(1).await;
    assert!(world.sandbox.faults().calls(Endpoint::NextUpdate) >= 400);
    world.drained().await;
    still_works(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn every_kind_of_status_of_auth_is_survived_and_loses_no_row() {
    survives_answers_of_auth(KINDS_OF_STATUS.into_iter().map(Fault::status)).await;
}

#[tokio::test]
async fn every_status_of_identifiers_is_survived_and_loses_no_row() {
    survives_every_status_of_a_call_for_a_row(Endpoint::Identifiers).await;
}

#[tokio::test]
async fn every_status_of_the_topic_is_survived_and_loses_no_row() {
    survives_every_status_of_a_call_for_a_row(Endpoint::PublishBatch).await;
}

#[tokio::test]
async fn no_status_of_a_delete_loses_a_row() {
    let sandbox = sandbox_with_short_locks().await;
    let world = World::around(sandbox, &SHORT_LOCKS).await;
    for status in KINDS_OF_STATUS {
        world
            .sandbox
            .faults()
            .once(Endpoint::DeleteUpdate, Fault::status(status));
        world.add(row(1, "CONTACT"));
        world.drained().await;
    }
    still_works(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_an_object_is_not_a_row() {
    let sandbox = sandbox().await;
    for body in bad_bodies() {
        sandbox
            .faults()
            .once(Endpoint::NextUpdate, Fault::body(200, body));
    }
    add(&sandbox, row(1, "CONTACT"));
    let world = World::around(sandbox, &[]).await;
    world.messages(1).await;
    still_works(&world).await;
    // Two are objects without a field.
    for (kind, rows) in [("failed", 2.0), ("read", 4.0)] {
        let metric = format!("offender_updates_total{{type=\"{kind}\"}}");
        assert_eq!(world.metric(&metric).await, rows, "{kind}");
    }
    world.stop().await;
}

#[tokio::test]
async fn each_form_of_no_rows_is_an_empty_poll() {
    for answer in [
        Fault::status(204),
        Fault::body(200, ""),
        Fault::body(200, "null"),
        Fault::body(200, "\u{feff}"),
        Fault::status(404),
    ] {
        let sandbox = sandbox().await;
        sandbox.faults().always(Endpoint::NextUpdate, answer);
        let world = World::around(sandbox, &[]).await;
        let empty = "offender_poll_results_total{result=\"empty\"}";
        world.until(empty, |polls| polls >= 2.0).await;
        let read = "offender_updates_total{type=\"read\"}";
        assert_eq!(world.metric(read).await, 0.0);
        world.stop().await;
    }
}

#[tokio::test]
async fn a_body_of_30_megabytes_is_refused_early() {
    for endpoint in [
        Endpoint::NextUpdate,
        Endpoint::Identifiers,
        Endpoint::Token,
        Endpoint::DeleteUpdate,
    ] {
        let sandbox = sandbox().await;
        sandbox
            .faults()
            .once(endpoint, Fault::body(200, vec![b' '; 30_000_000]));
        add(&sandbox, row(1, "CONTACT"));
        let world = World::around(sandbox, &[]).await;
        world.messages(1).await;
        still_works(&world).await;
        let resident = world.metric("process_resident_memory_bytes").await;
        assert!(resident > 0.0);
        world.stop().await;
    }
}

#[tokio::test]
async fn rows_with_bad_fields_are_left_then_marked_and_delay_no_others() {
    let good = r#"{"offenderId":1,"dateChanged":"2020-07-19T13:56:43","action":"UPSERT","offenderDeltaId":77,"sourceTable":"ALIAS","sourceRecordId":1,"status":"INPROGRESS","failedUpdate":false}"#;
    let spoiled = [
        good.replace("\"sourceTable\":\"ALIAS\"", "\"sourceTable\":null"),
        good.replace("\"sourceTable\":\"ALIAS\",", ""),
        good.replace("\"offenderId\":1", "\"offenderId\":\"1\""),
        good.replace("\"offenderId\":1", "\"offenderId\":null"),
        good.replace("\"offenderId\":1", "\"offenderId\":1e400"),
        good.replace("\"offenderId\":1", "\"offenderId\":99999999999999999999"),
        good.replace("\"offenderId\":1", "\"offenderId\":1.5"),
        good.replace("2020-07-19T", "2020-02-30T"),
        good.replace("13:56:43", "13:56:43+01:00"),
        good.replace("\"2020-07-19T13:56:43\"", "1595166"),
        good.replace("\"2020-07-19T13:56:43\"", "[2020,7,19,13,56]"),
        good.replace("\"action\":\"UPSERT\"", "\"action\":{}"),
        good.replace("\"sourceRecordId\":1", "\"sourceRecordId\":\"x\""),
        good.replace("\"failedUpdate\":false", "\"failedUpdate\":\"yes\""),
    ];
    let sandbox = sandbox().await;
    for body in &spoiled {
        assert_ne!(body, good);
        sandbox
            .faults()
            .once(Endpoint::NextUpdate, Fault::body(200, body.clone()));
    }
    let returned = spoiled[0].replace("\"failedUpdate\":false", "\"failedUpdate\":true");
    sandbox
        .faults()
        .once(Endpoint::NextUpdate, Fault::body(200, returned));
    add(&sandbox, row(1, "CONTACT"));
    let world = World::around(sandbox, &[]).await;
    world.messages(1).await;
    let marked = "offender_updates_total{type=\"permanentlyFailed\"}";
    world.until(marked, |rows| rows == 1.0).await;
    assert_eq!(
        world
            .metric("offender_updates_total{type=\"failed\"}")
            .await,
        spoiled.len() as f64
    );
    assert_eq!(world.sandbox.faults().calls(Endpoint::MarkAsFailed), 1);
    still_works(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn negative_and_huge_ids_that_fit_are_used_as_they_are() {
    let sandbox = sandbox().await;
    let huge = i64::MAX;
    let row = format!(
        r#"{{"offenderId":-7,"dateChanged":"2020-07-19T13:56:43","action":"UPSERT","offenderDeltaId":{huge},"sourceTable":"CONTACT","sourceRecordId":-1}}"#
    );
    sandbox
        .faults()
        .once(Endpoint::NextUpdate, Fault::body(200, row));
    let identifiers = format!(r#"{{"offenderId":{huge},"primaryIdentifiers":{{"crn":"X9"}}}}"#);
    let rule = Rule {
        offender_id: Some(-7),
        times: Some(1),
        ..Rule::new(Endpoint::Identifiers, Fault::body(200, identifiers))
    };
    sandbox.faults().inject(rule);
    let world = World::around(sandbox, &[]).await;
    let messages = world.messages(1).await;
    let expected = format!(
        r#"{{"offenderId":{huge},"crn":"X9","sourceId":-1,"eventDatetime":"2020-07-19T13:56:43"}}"#
    );
    assert_eq!(messages[0].body, expected);
    still_works(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn unreadable_identifiers_are_retried_within_the_lease() {
    for body in bad_bodies() {
        let sandbox = sandbox().await;
        sandbox
            .faults()
            .once(Endpoint::Identifiers, Fault::body(200, body));
        add(&sandbox, row(1, "CONTACT"));
        let world = World::around(sandbox, &[]).await;
        world.messages(1).await;
        world.drained().await;
        world.stop().await;
    }
}

#[tokio::test]
async fn auth_answers_without_a_token_are_survived() {
    let odd = [
        r#"{"access_token":7,"token_type":"bearer"}"#,
        r#"{"access_token":"a","token_type":"mac"}"#,
        r#"{"access_token":"a\nb","token_type":"bearer"}"#,
        r#"{"access_token":"unknown to community-api","token_type":"bearer"}"#,
        r#"{"access_token":"unknown to community-api","token_type":"bearer","expires_in":"3600"}"#,
    ];
    let bodies = bad_bodies().into_iter().chain(odd.map(Into::into));
    survives_answers_of_auth(bodies.map(|body| Fault::body(200, body))).await;
}

#[tokio::test]
async fn an_unreadable_sns_answer_is_not_a_publication() {
    for body in [
        &b""[..],
        b"null",
        b"<PublishBatchResponse/>",
        b"<a",
        b"\xff",
    ] {
        let sandbox = sandbox().await;
        sandbox
            .faults()
            .once(Endpoint::PublishBatch, Fault::body(200, body));
        add(&sandbox, row(1, "ALIAS"));
        let world = World::around(sandbox, &[]).await;
        let messages = world.messages(2).await;
        assert_eq!(
            event_types(&messages),
            ["OFFENDER_CHANGED", "OFFENDER_ALIAS_CHANGED"]
        );
        world.drained().await;
        assert_eq!(
            world
                .metric("offender_updates_total{type=\"published\"}")
                .await,
            2.0
        );
        world.stop().await;
    }
}
