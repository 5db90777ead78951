//! Health, info, metrics and everything else over HTTP.

use std::time::Duration;

use crate::world::{World, eventually};
use reqwest::{Response, StatusCode};
use sandbox::{Endpoint, Fault};
use serde_json::{Value, json};

async fn get(world: &World, path: &str) -> Response {
    world
        .http
        .get(format!("{}{path}", world.address))
        .send()
        .await
        .unwrap()
}

async fn health(world: &World) -> (StatusCode, Value) {
    let answer = get(world, "/health").await;
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn health_has_the_actuator_shape_with_sorted_keys() {
    let world = World::start().await;
    let answer = get(&world, "/health").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "application/vnd.spring-boot.actuator.v3+json"
    );
    let expected = r#"{"components":{"OAuthApiHealth":{"details":{"HttpStatus":"OK"},"status":"UP"},"communityApiHealth":{"details":{"HttpStatus":"OK"},"status":"UP"},"healthInfo":{"details":{"version":"2026-11-24.1.abcdef"},"status":"UP"},"livenessState":{"status":"UP"},"ping":{"status":"UP"},"probationevents-health":{"details":{"subscriptionsConfirmed":"1","subscriptionsPending":"0","topicArn":"arn:aws:sns:eu-west-2:000000000000:probation_offender_events"},"status":"UP"},"readinessState":{"status":"UP"}},"groups":["liveness","readiness"],"status":"UP"}"#;
    assert_eq!(answer.text().await.unwrap(), expected);
    world.stop().await;
}

#[tokio::test]
async fn health_is_plain_json_when_asked_for() {
    let world = World::start().await;
    let answer = world
        .http
        .get(format!("{}/health", world.address))
        .header("Accept", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json");
    world.stop().await;
}

#[tokio::test]
async fn a_component_that_is_down_says_why_and_the_whole_is_down() {
    let world = World::start().await;
    let faults = world.sandbox.faults();
    faults.always(Endpoint::CommunityPing, Fault::body(418, "I'm a teapot"));
    faults.always(Endpoint::AuthPing, Fault::DropConnection);
    faults.always(
        Endpoint::TopicAttributes,
        Fault::SnsError {
            status: 404,
            code: "NotFound".into(),
        },
    );
    let (status, body) = health(&world).await;
    assert_eq!(
        (status, &body["status"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("DOWN"))
    );
    let community = json!({"status": "DOWN", "details": {"HttpStatus": "I_AM_A_TEAPOT", "error": "answered 418", "body": "I'm a teapot"}});
    assert_eq!(body["components"]["communityApiHealth"], community);
    assert_eq!(body["components"]["OAuthApiHealth"]["status"], "DOWN");
    assert!(body["components"]["OAuthApiHealth"]["details"]["error"].is_string());
    let topic = &body["components"]["probationevents-health"];
    assert_eq!(topic["status"], "DOWN");
    assert_eq!(
        topic["details"]["topicArn"],
        "arn:aws:sns:eu-west-2:000000000000:probation_offender_events"
    );
    assert!(
        topic["details"]["error"]
            .as_str()
            .unwrap()
            .contains("NotFound")
    );
    assert_eq!(body["components"]["livenessState"]["status"], "UP");
    assert_eq!(get(&world, "/health/liveness").await.status(), 200);
    assert_eq!(
        get(&world, "/health/communityApiHealth").await.status(),
        503
    );
    world.stop().await;
}

#[tokio::test]
async fn a_slow_ping_makes_its_component_down_within_the_timeout() {
    let world = World::start_with(&[("API_HEALTHTIMEOUT", "100ms")]).await;
    for endpoint in [
        Endpoint::CommunityPing,
        Endpoint::AuthPing,
        Endpoint::TopicAttributes,
    ] {
        world.sandbox.faults().always(endpoint, Fault::Hang);
    }
    let started = tokio::time::Instant::now();
    let (status, body) = health(&world).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(status, 503);
    for name in [
        "communityApiHealth",
        "OAuthApiHealth",
        "probationevents-health",
    ] {
        assert_eq!(
            body["components"][name]["details"]["error"], "no answer within 100ms",
            "{name}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn many_callers_at_once_cause_one_check() {
    let world = World::start().await;
    world.sandbox.faults().always(
        Endpoint::CommunityPing,
        Fault::Latency(Duration::from_millis(100)),
    );
    let answers = futures_util::future::join_all((0..50).map(|_| health(&world))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200));
    assert_eq!(world.sandbox.faults().calls(Endpoint::CommunityPing), 1);
    world.stop().await;
}

#[tokio::test]
async fn each_component_has_a_page_and_an_unknown_one_has_none() {
    let world = World::start().await;
    for (path, body) in [
        ("/health/ping", r#"{"status":"UP"}"#),
        ("/health/liveness", r#"{"status":"UP"}"#),
        ("/health/readiness", r#"{"status":"UP"}"#),
        (
            "/health/OAuthApiHealth",
            r#"{"details":{"HttpStatus":"OK"},"status":"UP"}"#,
        ),
        (
            "/health/healthInfo",
            r#"{"details":{"version":"2026-11-24.1.abcdef"},"status":"UP"}"#,
        ),
    ] {
        let answer = get(&world, path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.text().await.unwrap(), body, "{path}");
    }
    assert_eq!(get(&world, "/health/nothing").await.status(), 404);
    world.stop().await;
}

#[tokio::test]
async fn info_tells_build_and_product() {
    let world = World::start_with(&[("PRODUCT_ID", "DPS001")]).await;
    let info: Value = get(&world, "/info").await.json().await.unwrap();
    assert_eq!(info["build"]["name"], "probation-offender-events");
    assert_eq!(info["build"]["artifact"], "probation-offender-events");
    assert_eq!(info["build"]["version"], "2026-11-24.1.abcdef");
    assert!(
        info["build"]["time"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok()
    );
    assert!(info["git"].is_object());
    assert_eq!(info["productId"], "DPS001");
    world.stop().await;
}

#[tokio::test]
async fn metrics_come_as_text_or_as_open_metrics_when_asked_for() {
    let world = World::start().await;
    let text = get(&world, "/prometheus").await;
    assert_eq!(
        text.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(
        text.text()
            .await
            .unwrap()
            .contains("\noffender_updates_total{type=\"permanentlyFailed\"} 0\n")
    );
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let open = world
        .http
        .get(format!("{}/prometheus", world.address))
        .header("Accept", accept)
        .send()
        .await
        .unwrap();
    assert_eq!(
        open.headers()["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.text().await.unwrap().ends_with("# EOF\n"));
    world.stop().await;
}

#[tokio::test]
async fn anything_else_is_401_with_an_empty_body_and_every_answer_has_the_security_headers() {
    let world = World::start().await;
    for path in [
        "/",
        "/secret",
        "/prometheus/x",
        "/health/a/b",
        "/actuator",
        "/%ff",
        "/info/",
    ] {
        let answer = get(&world, path).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.text().await.unwrap(), "");
    }
    let posted = world
        .http
        .post(format!("{}/health", world.address))
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 401);
    for path in [
        "/nothing",
        "/health",
        "/info",
        "/prometheus",
        "/health/nothing",
    ] {
        let answer = get(&world, path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            (
                "cache-control",
                "no-cache, no-store, max-age=0, must-revalidate",
            ),
            ("pragma", "no-cache"),
            ("expires", "0"),
        ] {
            assert_eq!(answer.headers()[name], value, "{path}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_management_port_takes_everything_but_the_probes_and_the_docs() {
    let world = World::start_with(&[("MANAGEMENT_SERVER_PORT", "0")]).await;
    assert_ne!(world.address, world.management_address);
    for path in ["/prometheus", "/health", "/info", "/health/liveness"] {
        let answer = world
            .http
            .get(format!("{}{path}", world.management_address))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    for path in ["/health/ping", "/health/liveness", "/health/readiness"] {
        assert_eq!(get(&world, path).await.status(), 200, "{path}");
    }
    for path in [
        "/prometheus",
        "/health",
        "/info",
        "/health/communityApiHealth",
    ] {
        assert_eq!(get(&world, path).await.status(), 401, "{path}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_scrape_shows_what_happened() {
    let world = World::start().await;
    world.add(crate::world::row(1, "ALIAS"));
    world.messages(2).await;
    world.drained().await;
    eventually("calls are counted", async || {
        world.metric("offender_call_seconds_count{call=\"delete\",dependency=\"community_api\",outcome=\"ok\"}").await == 1.0
    })
    .await;
    assert_eq!(
        world
            .metric(
                "offender_call_seconds_count{call=\"publish\",dependency=\"sns\",outcome=\"ok\"}"
            )
            .await,
        1.0
    );
    world.stop().await;
}
