//! What Application Insights receives: which items, with which contents.

use std::collections::BTreeSet;

use crate::binary::Service;
use crate::ingestion::{Ingestion, KEY};
use crate::proxy;
use crate::world::{World, add, eventually, expire_locks, row, sandbox};
use probation_offender_events::telemetry;
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Sandbox};
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A service in this sandbox that reports to this endpoint.
pub async fn reporting_to(
    sandbox: Sandbox,
    ingestion: &Ingestion,
    more: &[(&'static str, &str)],
) -> World {
    let connection = ingestion.connection_string();
    let mut variables = vec![
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", &*connection),
        ("HOSTNAME", "pod-1"),
    ];
    variables.extend(more);
    World::around(sandbox, &variables).await
}

fn properties(item: &Value) -> &Value {
    &item["data"]["baseData"]["properties"]
}

#[tokio::test]
async fn a_published_row_is_one_custom_event_with_exact_dimensions() {
    let ingestion = Ingestion::start().await;
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    let with_record = world.add(NewUpdate {
        source_record_id: Some(345),
        ..row(1, "ALIAS")
    });
    world.messages(2).await;
    let without = world.add(NewUpdate {
        source_record_id: None,
        action: "DELETE".into(),
        ..row(2, "REGISTRATION")
    });
    world.messages(3).await;
    world.drained().await;
    let crn_of = |offender| {
        world
            .sandbox
            .delius()
            .identifiers(offender)
            .unwrap()
            .unwrap()
            .crn
    };
    let crns = [crn_of(1), crn_of(2)];
    // The shutdown sends what is left.
    world.stop().await;
    let mut events = ingestion.of_kind("Event");
    assert_eq!(events.len(), 2, "{events:?}");
    for event in &mut events {
        assert_eq!(event["iKey"], KEY);
        assert_eq!(event["data"]["baseType"], "EventData");
        assert_eq!(event["data"]["baseData"]["name"], "ProbationOffenderEvent");
        assert_eq!(event["tags"]["ai.cloud.role"], "probation-offender-events");
        assert_eq!(event["tags"]["ai.cloud.roleInstance"], "pod-1");
        assert_eq!(event["tags"]["ai.application.ver"], "2026-11-24.1.abcdef");
        let dimensions = &mut event["data"]["baseData"]["properties"];
        let age = dimensions["timeSinceUpdateSeconds"].take();
        assert!(age.as_str().unwrap().parse::<u64>().unwrap() > 100_000_000);
    }
    let row_1 = json!({
        "crn": crns[0], "action": "UPSERT", "offenderDeltaId": with_record.to_string(), "source": "ALIAS",
        "sourceId": "345", "dateChanged": "2020-07-19T13:56:43", "timeSinceUpdateSeconds": null,
    });
    let row_2 = json!({
        "crn": crns[1], "action": "DELETE", "offenderDeltaId": without.to_string(), "source": "REGISTRATION",
        "dateChanged": "2020-07-19T13:56:43", "timeSinceUpdateSeconds": null,
    });
    assert_eq!(properties(&events[0]), &row_1);
    assert_eq!(properties(&events[1]), &row_2);
}

#[tokio::test]
async fn a_marked_row_is_one_custom_event_with_two_dimensions() {
    let ingestion = Ingestion::start().await;
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    let id = world.add(row(404_404, "OFFENDER"));
    let rows = |kind: &str| format!("offender_updates_total{{type=\"{kind}\"}}");
    world.until(&rows("failed"), |count| count == 1.0).await;
    expire_locks(&world.sandbox);
    world
        .until(&rows("permanentlyFailed"), |count| count == 1.0)
        .await;
    world.stop().await;
    let events = ingestion.of_kind("Event");
    assert_eq!(events.len(), 1, "{events:?}");
    let data = &events[0]["data"]["baseData"];
    assert_eq!(data["name"], "ProbationOffenderPermanentlyFailedEvent");
    let expected = json!({"offenderDeltaId": id.to_string(), "offenderId": "404404"});
    assert_eq!(data["properties"], expected);
    // Neither attempt was a success.
    let ended: Vec<_> = ingestion
        .of_kind("Request")
        .iter()
        .map(|request| {
            (
                request["data"]["baseData"]["success"].clone(),
                properties(request)["outcome"].clone(),
            )
        })
        .collect();
    assert_eq!(
        ended,
        [
            (json!(false), json!("not_visible")),
            (json!(false), json!("permanently_failed"))
        ]
    );
}

#[tokio::test]
async fn a_warning_is_a_trace_of_its_row() {
    let _log = tracing_subscriber::registry()
        .with(telemetry::traces())
        .set_default();
    let ingestion = Ingestion::start().await;
    let world = reporting_to(sandbox().await, &ingestion, &[]).await;
    let id = world.add(row(404_404, "OFFENDER"));
    let left = "offender_updates_total{type=\"failed\"}";
    world.until(left, |rows| rows == 1.0).await;
    tracing::info!(target: "probation_offender_events", "no warning");
    tracing::warn!(target: "hyper", "may quote a request");
    tracing::error!(target: "aws_config", "may quote a request");
    world.stop().await;
    let traces = ingestion.of_kind("Message");
    assert_eq!(traces.len(), 1, "{traces:?}");
    let data = &traces[0]["data"]["baseData"];
    let message = "row left locked: it comes back when the lock expires. If the service still cannot turn the row into \
        events then, it marks the row as permanently failed";
    assert_eq!(
        (&data["message"], &data["severityLevel"]),
        (&json!(message), &json!(2))
    );
    assert_eq!(data["properties"]["offenderDeltaId"], id.to_string());
    assert_eq!(data["properties"]["outcome"], "not_visible");
    let request = &ingestion.of_kind("Request")[0];
    let tags = |item: &Value, name: &str| item["tags"][format!("ai.operation.{name}")].clone();
    assert_eq!(tags(&traces[0], "id"), tags(request, "id"));
    assert_eq!(tags(&traces[0], "name"), "offender update");
    assert_eq!(
        tags(&traces[0], "parentId"),
        request["data"]["baseData"]["id"]
    );
}

#[tokio::test]
async fn a_claim_without_answer_is_a_trace_of_its_call() {
    let _log = tracing_subscriber::registry()
        .with(telemetry::traces())
        .set_default();
    let sandbox = sandbox().await;
    sandbox.faults().once(Endpoint::NextUpdate, Fault::Hang);
    let ingestion = Ingestion::start().await;
    let world = reporting_to(sandbox, &ingestion, &[("API_CLAIMTIMEOUT", "100ms")]).await;
    eventually("the next claim", async || {
        world.sandbox.faults().calls(Endpoint::NextUpdate) > 1
    })
    .await;
    world.stop().await;
    let mut calls = ingestion.of_kind("RemoteDependency");
    calls.retain(|call| call["data"]["baseData"]["resultCode"] == "timed_out");
    let traces = ingestion.of_kind("Message");
    let given_up = traces.iter().find(|trace| {
        let message = trace["data"]["baseData"]["message"].as_str().unwrap();
        message.starts_with("a claim got no answer")
    });
    let given_up = given_up.unwrap_or_else(|| panic!("{traces:?}"));
    let operation = |item: &Value| item["tags"]["ai.operation.id"].clone();
    assert!(operation(given_up).is_string());
    let is_its_own = |call: &Value| operation(call) == operation(given_up);
    assert!(calls.iter().any(is_its_own), "{calls:?}");
}

#[tokio::test]
async fn failed_polls_and_odd_settings_are_traces() {
    let sandbox = sandbox().await;
    let unavailable = Fault::status(503);
    sandbox.faults().always(Endpoint::NextUpdate, unavailable);
    let ingestion = Ingestion::start().await;
    let connection = ingestion.connection_string();
    let variables = [
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str()),
        ("OFFENDERUPDATEPOLL_CLAIMERS", "4"),
    ];
    let service = Service::start(&sandbox, &variables);
    eventually("a poll failed", async || {
        sandbox.faults().calls(Endpoint::NextUpdate) > 3
    })
    .await;
    service.terminate().await;
    let traces = ingestion.of_kind("Message");
    let starting_with = |start: &str| {
        let mut found = traces.clone();
        found.retain(|trace| {
            let message = trace["data"]["baseData"]["message"].as_str().unwrap();
            message.starts_with(start)
        });
        assert_eq!(found.len(), 1, "{traces:?}");
        found.remove(0)
    };
    starting_with("OFFENDERUPDATEPOLL_CLAIMERS ");
    let failed = starting_with("poll failed");
    assert_eq!(failed["data"]["baseData"]["severityLevel"], 3);
    assert_eq!(properties(&failed)["cause"], "nextUpdate: answered 503");
    assert_eq!(failed["tags"]["ai.cloud.role"], "probation-offender-events");
    // The poll consisted of many claims, each of which is an operation.
    assert_eq!(failed["tags"]["ai.operation.name"], Value::Null);
}

#[tokio::test]
async fn a_row_is_one_operation_with_its_calls_and_event() {
    let sandbox = sandbox().await;
    sandbox
        .faults()
        .once(Endpoint::Identifiers, Fault::status(503));
    add(&sandbox, row(1, "ALIAS"));
    let (address, heard) = proxy::listen_in(sandbox.community_url()).await;
    let ingestion = Ingestion::start().await;
    let world = reporting_to(sandbox, &ingestion, &[("COMMUNITY_ENDPOINT_URL", &address)]).await;
    world.messages(2).await;
    world.drained().await;
    world.stop().await;

    let operation = |item: &Value| item["tags"]["ai.operation.id"].as_str().unwrap().to_owned();
    let event = operation(&ingestion.of_kind("Event")[0]);
    assert_eq!(event.len(), 32);
    let calls: Vec<_> = ingestion
        .of_kind("RemoteDependency")
        .into_iter()
        .filter(|call| operation(call) == event)
        .map(|call| call["data"]["baseData"].clone())
        .collect();
    let mut seen: Vec<_> = calls
        .iter()
        .map(|call| {
            let text = |name: &str| call[name].as_str().unwrap().to_owned();
            (text("name"), text("resultCode"), call["success"].as_bool())
        })
        .collect();
    seen.sort();
    let community = "/secure/offenders";
    let identifiers = format!("GET {community}/offenderId/{{offenderId}}/identifiers");
    let expected = [
        (
            format!("DELETE {community}/update/{{offenderDeltaId}}"),
            "200",
            true,
        ),
        (format!("GET {community}/nextUpdate"), "200", true),
        (identifiers.clone(), "200", true),
        (identifiers, "503", false),
        ("POST /oauth/token".to_owned(), "200", true),
        ("PublishBatch".to_owned(), "ok", true),
    ];
    let expected = expected.map(|(name, code, success)| (name, code.to_owned(), Some(success)));
    assert_eq!(seen, expected);
    let host = address.trim_start_matches("http://");
    assert!(calls.iter().any(|call| call["target"] == host));
    assert!(
        calls
            .iter()
            .any(|call| call["target"] == "probation_offender_events")
    );
    for kind in ["Request", "Exception"] {
        let items = ingestion.of_kind(kind);
        assert_eq!(items.len(), 1, "{kind}");
        assert_eq!(operation(&items[0]), event);
    }
    for item in ingestion.accepted() {
        let name = &item["tags"]["ai.operation.name"];
        assert_eq!(name, "offender update", "{item}");
    }
    let dimensions = properties(&ingestion.of_kind("Request")[0]).clone();
    let dimensions: Vec<_> = dimensions.as_object().unwrap().keys().cloned().collect();
    let expected = ["eventType", "offenderDeltaId", "offenderId", "outcome"];
    assert_eq!(dimensions, expected);
    let exception = &ingestion.of_kind("Exception")[0]["data"]["baseData"]["exceptions"][0];
    assert_eq!(exception["typeName"], "community_api 503");
    assert_eq!(exception["message"], "answered 503");

    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let with_header = heard.matches("traceparent: 00-").count();
    assert_eq!(
        with_header,
        heard.matches(" HTTP/1.1\r\n").count(),
        "{heard}"
    );
    let spans: BTreeSet<_> = calls
        .iter()
        .filter_map(|call| call["id"].as_str())
        .collect();
    let header = format!("traceparent: 00-{event}-");
    let joined: Vec<_> = heard
        .split(&header)
        .skip(1)
        .map(|rest| &rest[..16])
        .collect();
    // nextUpdate, identifiers twice, DELETE: each call by its own id.
    assert_eq!(joined.len(), 4, "{heard}");
    assert!(
        joined.iter().all(|id| spans.contains(id)),
        "{joined:?} {spans:?}"
    );
}

#[tokio::test]
async fn health_checks_produce_nothing() {
    let ingestion = Ingestion::start().await;
    let off = [("OFFENDERUPDATEPOLL_ENABLED", "false")];
    let world = reporting_to(sandbox().await, &ingestion, &off).await;
    for path in ["/health", "/health/liveness", "/info", "/prometheus"] {
        world
            .http
            .get(format!("{}{path}", world.address))
            .send()
            .await
            .unwrap();
    }
    assert!(world.sandbox.faults().calls(Endpoint::TopicAttributes) > 0);
    world.stop().await;
    assert!(ingestion.batches().is_empty());
}

#[tokio::test]
async fn foreign_text_is_cut_between_characters() {
    let ingestion = Ingestion::start().await;
    let sandbox = sandbox().await;
    let crn = format!("X{}", "€".repeat(10_000));
    let body = json!({"offenderId": 1, "primaryIdentifiers": {"crn": crn}});
    sandbox
        .faults()
        .always(Endpoint::Identifiers, Fault::body(200, body.to_string()));
    let world = reporting_to(sandbox, &ingestion, &[]).await;
    world.add(row(1, "ALIAS"));
    world.drained().await;
    world.stop().await;
    let events = ingestion.of_kind("Event");
    let sent = properties(&events[0])["crn"].as_str().unwrap();
    assert_eq!((sent.len(), &crn[..sent.len()]), (1024, sent));
}
