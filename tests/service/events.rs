//! From a row to its messages.

use crate::ingestion::Ingestion;
use crate::world::{World, add_rows, attribute, event_types, now, row, sandbox};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault};

const INSIGHTS: &str = "APPLICATIONINSIGHTS_CONNECTION_STRING";

#[tokio::test]
async fn a_changed_date_of_birth_becomes_two_exact_events() {
    let world = World::start().await;
    let sql = "UPDATE offender SET date_of_birth = '1980-02-29' WHERE offender_id = 1";
    world.sandbox.delius().execute(sql).unwrap();
    let changed = world
        .sandbox
        .delius()
        .updates()
        .unwrap()
        .pop()
        .map(|row| row.date_changed);
    let messages = world.messages(2).await;
    assert_eq!(
        messages[0].body,
        r#"{"offenderId":1,"crn":"X000001","nomsNumber":"A0001AA"}"#
    );
    let specific =
        r#"{"offenderId":1,"crn":"X000001","nomsNumber":"A0001AA","sourceId":1,"eventDatetime":""#;
    assert!(
        messages[1].body.starts_with(specific),
        "{}",
        messages[1].body
    );
    if let Some(changed) = changed {
        let printed = changed.trim_end_matches('0').trim_end_matches('.');
        assert_eq!(messages[1].body, format!("{specific}{printed}\"}}"));
    }
    assert_eq!(
        event_types(&messages),
        ["OFFENDER_CHANGED", "OFFENDER_DETAILS_CHANGED"]
    );
    world.drained().await;
    world.stop().await;
}

#[tokio::test]
async fn messages_carry_exactly_the_five_attributes_and_no_subject() {
    let world = World::start().await;
    world.add(row(1, "ALIAS"));
    for message in world.messages(2).await {
        let types: Vec<_> = message
            .attributes
            .iter()
            .map(|(name, (kind, _))| (name.as_str(), kind.as_str()))
            .collect();
        let expected = [
            ("contentType", "String"),
            ("eventType", "String"),
            ("id", "String"),
            ("source", "String"),
            ("timestamp", "Number.java.lang.Long"),
        ];
        assert_eq!(types, expected);
        assert_eq!(
            attribute(&message, "contentType"),
            "text/plain;charset=UTF-8"
        );
        assert_eq!(attribute(&message, "source"), "delius");
        let sent: i64 = attribute(&message, "timestamp").parse().unwrap();
        assert!((sent / 1000 - now()).abs() <= 10);
        assert_eq!(
            uuid::Uuid::parse_str(attribute(&message, "id"))
                .unwrap()
                .get_version_num(),
            5
        );
        assert_eq!(message.subject, None);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_traceparent_leads_to_the_call_that_published_the_message() {
    let ingestion = Ingestion::start().await;
    let variables = [
        ("HMPPS_SQS_TRACEPARENT", "true"),
        (INSIGHTS, &*ingestion.connection_string()),
    ];
    let world = World::start_with(&variables).await;
    world.add(row(1, "ALIAS"));
    let messages = world.messages(2).await;
    world.drained().await;
    world.stop().await;
    let calls = ingestion.of_kind("RemoteDependency");
    let call = calls
        .iter()
        .find(|call| call["data"]["baseData"]["name"] == "PublishBatch")
        .unwrap();
    let operation = call["tags"]["ai.operation.id"].as_str().unwrap();
    let id = call["data"]["baseData"]["id"].as_str().unwrap();
    let expected = ("String".to_owned(), format!("00-{operation}-{id}-01"));
    for message in messages {
        assert_eq!(message.attributes.len(), 6);
        assert_eq!(message.attributes["traceparent"], expected);
    }
}

#[tokio::test]
async fn without_the_setting_or_an_operation_there_is_no_traceparent() {
    let ingestion = Ingestion::start().await;
    let insights = (INSIGHTS, &*ingestion.connection_string());
    for variables in [
        &[insights][..],
        &[insights, ("HMPPS_SQS_TRACEPARENT", "false")],
        &[("HMPPS_SQS_TRACEPARENT", "true")],
    ] {
        let world = World::start_with(variables).await;
        world.add(row(1, "ALIAS"));
        for message in world.messages(2).await {
            assert_eq!(message.attributes.len(), 5, "{variables:?}");
        }
        world.stop().await;
    }
}

#[tokio::test]
async fn a_deleted_contact_raises_contact_deleted_if_that_is_switched_on() {
    for (setting, expected) in [("false", "CONTACT_CHANGED"), ("true", "CONTACT_DELETED")] {
        let ingestion = Ingestion::start().await;
        let variables = [
            ("OFFENDERUPDATEPOLL_CONTACTDELETED", setting),
            (INSIGHTS, &*ingestion.connection_string()),
        ];
        let world = World::start_with(&variables).await;
        world.add(NewUpdate {
            action: "DELETE".into(),
            ..row(1, "CONTACT")
        });
        assert_eq!(event_types(&world.messages(1).await), [expected]);
        world.drained().await;
        world.stop().await;
        let request = &ingestion.of_kind("Request")[0]["data"]["baseData"];
        assert_eq!(request["properties"]["eventType"], expected);
    }
}

#[tokio::test]
async fn a_row_with_two_events_costs_four_calls() {
    let world = World::start().await;
    for record in 1..=10 {
        world.add(NewUpdate {
            source_record_id: Some(record),
            ..row(1, "OFFENDER")
        });
    }
    world.messages(20).await;
    world.drained().await;
    let faults = world.sandbox.faults();
    assert_eq!(faults.calls(Endpoint::PublishBatch), 10);
    assert_eq!(faults.calls(Endpoint::Publish), 0);
    assert_eq!(faults.calls(Endpoint::Identifiers), 10);
    assert_eq!(faults.calls(Endpoint::DeleteUpdate), 10);
    assert_eq!(faults.calls(Endpoint::Token), 1);
    for (series, count) in [
        ("offender_updates_total{type=\"read\"}", 10.0),
        ("offender_updates_total{type=\"published\"}", 20.0),
        ("offender_update_age_seconds_count", 10.0),
    ] {
        assert_eq!(world.metric(series).await, count, "{series}");
    }
    world.stop().await;
}

#[tokio::test]
async fn missing_noms_number_and_source_record_leave_their_fields_out() {
    let world = World::start().await;
    world.add(NewUpdate {
        source_record_id: None,
        date_changed: "2020-07-19T13:56".into(),
        ..row(4, "ALIAS")
    });
    let messages = world.messages(2).await;
    assert_eq!(messages[0].body, r#"{"offenderId":4,"crn":"X000004"}"#);
    assert_eq!(
        messages[1].body,
        r#"{"offenderId":4,"crn":"X000004","eventDatetime":"2020-07-19T13:56:00"}"#
    );
    world.stop().await;
}

#[tokio::test]
async fn rows_of_one_offender_are_published_in_the_order_of_their_claims() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=30);
    // Rows created in the same second are claimed in any order.
    let apart =
        "UPDATE offender_delta SET created_datetime = created_datetime - 100 + source_record_id";
    sandbox.delius().execute(apart).unwrap();
    // One of the first rows is slow, and one is retried.
    let slow = std::time::Duration::from_millis(300);
    sandbox
        .faults()
        .once(Endpoint::Identifiers, Fault::Latency(slow));
    sandbox
        .faults()
        .once(Endpoint::PublishBatch, Fault::status(500));
    let world = World::around(sandbox, &[]).await;
    let messages = world.messages(30).await;
    let records: Vec<_> = (1..=30)
        .map(|record| format!("\"sourceId\":{record},"))
        .collect();
    for (message, record) in messages.iter().zip(records) {
        assert!(message.body.contains(&record), "{} {record}", message.body);
    }
    world.stop().await;
}

#[tokio::test]
async fn the_age_of_a_row_is_measured_from_its_change_in_london() {
    let world = World::start().await;
    world
        .sandbox
        .delius()
        .execute("UPDATE offender SET surname = 'Changed' WHERE offender_id = 2")
        .unwrap();
    world.messages(2).await;
    world.drained().await;
    assert_eq!(world.metric("offender_update_age_seconds_count").await, 1.0);
    let age = world.metric("offender_update_age_seconds_max").await;
    assert!(age < 20.0, "{age}");
    assert_eq!(world.metric("offender_update_age_seconds_sum").await, age);
    world.stop().await;
}
