//! Health, info, metrics and everything else over HTTP.

use std::time::Duration;

use crate::world::{World, eventually, sandbox};
use probation_offender_events::outcome::{Dependency, Label};
use reqwest::{Method, Response, StatusCode};
use sandbox::{Endpoint, Fault};
use serde_json::{Value, json};

const ACTUATOR_JSON: &str = "application/vnd.spring-boot.actuator.v3+json";

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
async fn health_has_the_actuator_shape_in_its_order() {
    let world = World::start_with(&[("OFFENDERUPDATEPOLL_ENABLED", "false")]).await;
    let answer = get(&world, "/health").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], ACTUATOR_JSON);
    let expected = r#"{"status":"UP","components":{"OAuthApiHealth":{"status":"UP","details":{"HttpStatus":"OK"}},"communityApiHealth":{"status":"UP","details":{"HttpStatus":"OK"}},"healthInfo":{"status":"UP","details":{"version":"2026-11-24.1.abcdef"}},"livenessState":{"status":"UP"},"ping":{"status":"UP"},"probationevents-health":{"status":"UP","details":{"subscriptionsConfirmed":"1","subscriptionsPending":"0","topicArn":"arn:aws:sns:eu-west-2:000000000000:probation_offender_events"}},"readinessState":{"status":"UP"}},"groups":["liveness","readiness"]}"#;
    assert_eq!(answer.text().await.unwrap(), expected);
    world.stop().await;
}

#[tokio::test]
async fn content_types_follow_the_accept_header() {
    let world = World::start().await;
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (path, accept, expected) in [
        ("/health", "*/*", ACTUATOR_JSON),
        ("/health", "application/json", "application/json"),
        ("/health", "application/json;q=0", ACTUATOR_JSON),
        ("/health/ping", "application/json, */*", "application/json"),
        ("/info", "*/*", ACTUATOR_JSON),
        ("/info", "application/json", "application/json"),
        ("/prometheus", "*/*", text),
        ("/prometheus", "application/openmetrics-text;q=0", text),
        (
            "/prometheus",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
            open_metrics,
        ),
        (
            "/prometheus",
            "application/openmetrics-text;q=0.3,text/plain;q=0.5",
            text,
        ),
    ] {
        let request = world.http.get(format!("{}{path}", world.address));
        let answer = request.header("Accept", accept).send().await.unwrap();
        assert_eq!(
            answer.headers()["content-type"],
            expected,
            "{path} {accept}"
        );
        let is_open = answer.text().await.unwrap().ends_with("# EOF\n");
        assert_eq!(is_open, expected == open_metrics, "{path} {accept}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_down_component_has_a_reason_and_health_is_down() {
    // Without polls, the details have no last claim.
    let world = World::start_with(&[("OFFENDERUPDATEPOLL_ENABLED", "false")]).await;
    let faults = world.sandbox.faults();
    faults.always(Endpoint::CommunityPing, Fault::body(418, "I'm a teapot"));
    faults.always(Endpoint::AuthPing, Fault::DropConnection);
    faults.always(Endpoint::TopicAttributes, Fault::sns(404, "NotFound"));
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
    for dependency in Dependency::ALL {
        let up = world.metrics.dependency_up.of(*dependency).get();
        assert_eq!(up, 0, "{dependency:?}");
    }
    assert_eq!(body["components"]["livenessState"]["status"], "UP");
    assert_eq!(get(&world, "/health/liveness").await.status(), 200);
    assert_eq!(
        get(&world, "/health/communityApiHealth").await.status(),
        503
    );
    world.stop().await;
}

#[tokio::test]
async fn a_failed_claim_is_shown_beside_a_healthy_ping() {
    let sandbox = sandbox().await;
    let dead_database = Fault::status(500);
    sandbox.faults().always(Endpoint::NextUpdate, dead_database);
    let world = World::around(sandbox, &[]).await;
    eventually("a claim has failed", async || {
        world.metrics.last_claim.lock().is_some()
    })
    .await;
    let (status, body) = health(&world).await;
    assert_eq!(status, 200);
    let details = &body["components"]["communityApiHealth"]["details"];
    assert_eq!(details["lastClaim"], "failed");
    assert!(details["lastClaimSecondsAgo"].is_u64(), "{details}");
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
            body["components"][name]["details"]["error"],
            "no answer within 100ms (API_HEALTHTIMEOUT)",
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
async fn each_component_has_a_path() {
    let world = World::start().await;
    for (path, body) in [
        ("/health/ping", r#"{"status":"UP"}"#),
        ("/health/liveness", r#"{"status":"UP"}"#),
        ("/health/readiness", r#"{"status":"UP"}"#),
        (
            "/health/OAuthApiHealth",
            r#"{"status":"UP","details":{"HttpStatus":"OK"}}"#,
        ),
        (
            "/health/healthInfo",
            r#"{"status":"UP","details":{"version":"2026-11-24.1.abcdef"}}"#,
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
async fn info_shows_build_and_product() {
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
async fn unknown_paths_are_401_with_an_empty_body() {
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
    world.stop().await;
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    let world = World::start().await;
    for path in ["/health", "/health/ping", "/health/liveness", "/prometheus"] {
        let answer = get(&world, &format!("{path}/")).await;
        assert_eq!(answer.status(), 200, "{path}/");
        let content_type = answer.headers()["content-type"].clone();
        let without = get(&world, path).await;
        assert_eq!(content_type, without.headers()["content-type"], "{path}/");
    }
    assert_eq!(get(&world, "/health/nothing/").await.status(), 404);
    world.stop().await;
}

#[tokio::test]
async fn another_method_on_a_known_path_is_405_with_the_allowed_ones() {
    let world = World::start().await;
    for path in [
        "/health",
        "/health/ping/",
        "/info",
        "/prometheus",
        "/v3/api-docs",
    ] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let url = format!("{}{path}", world.address);
            let answer = world.http.request(method, url).send().await.unwrap();
            assert_eq!(answer.status(), 405, "{path}");
            assert_eq!(answer.headers()["allow"], "GET,HEAD", "{path}");
            assert_eq!(answer.text().await.unwrap(), "", "{path}");
        }
    }
    let posted = world.http.post(format!("{}/nothing", world.address));
    assert_eq!(posted.send().await.unwrap().status(), 401);
    world.stop().await;
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let world = World::start().await;
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
            ("x-xss-protection", "0"),
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
async fn https_answers_have_strict_transport_security() {
    let world = World::start().await;
    for (proto, is_secure) in [
        (None, false),
        (Some("http"), false),
        (Some("http, https"), false),
        (Some("https"), true),
        (Some("HTTPS,http"), true),
    ] {
        let mut request = world.http.get(format!("{}/health/ping", world.address));
        if let Some(proto) = proto {
            request = request.header("X-Forwarded-Proto", proto);
        }
        let answer = request.send().await.unwrap();
        let header = answer.headers().get("strict-transport-security");
        let expected = is_secure.then_some("max-age=31536000 ; includeSubDomains");
        assert_eq!(
            header.map(|value| value.to_str().unwrap()),
            expected,
            "{proto:?}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn only_the_metrics_move_to_the_management_port() {
    let world = World::start_with(&[("MANAGEMENT_SERVER_PORT", "0")]).await;
    assert_ne!(world.address, world.management_address);
    for (path, on_main) in [
        ("/health", 200),
        ("/health/communityApiHealth", 200),
        ("/health/liveness", 200),
        ("/info", 200),
        ("/v3/api-docs", 200),
        ("/prometheus", 401),
        ("/prometheus/", 401),
    ] {
        assert_eq!(get(&world, path).await.status(), on_main, "{path}");
        let management = world
            .http
            .get(format!("{}{path}", world.management_address));
        assert_eq!(management.send().await.unwrap().status(), 200, "{path}");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_api_docs_can_be_switched_off() {
    let world = World::start_with(&[("SPRINGDOC_APIDOCS_ENABLED", "false")]).await;
    for path in ["/v3/api-docs", "/swagger-ui.html", "/swagger-ui/index.html"] {
        let answer = get(&world, path).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    }
    assert_eq!(get(&world, "/info").await.status(), 200);
    world.stop().await;
}

#[tokio::test]
async fn a_failing_pings_body_is_shown_up_to_200_printable_characters() {
    let world = World::start().await;
    let body = format!("broken\u{7}\r\n\u{202e}\u{1b}[31m{}", "é".repeat(300));
    let faults = world.sandbox.faults();
    faults.always(Endpoint::AuthPing, Fault::body(500, &*body));
    let (_, health) = health(&world).await;
    let shown = &health["components"]["OAuthApiHealth"]["details"]["body"];
    assert_eq!(*shown, format!("broken     [31m{}", "é".repeat(185)));
    world.stop().await;
}

async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn metrics_show_what_is_down_without_health_requests() {
    let world = World::start().await;
    // Read here, since the skipped time closes HTTP connections.
    let auth_is_up = || world.metrics.dependency_up.of(Dependency::Auth).get();
    let faults = world.sandbox.faults();
    faults.always(Endpoint::AuthPing, Fault::status(500));
    eventually("it runs", async || faults.calls(Endpoint::NextUpdate) > 0).await;
    assert_eq!(auth_is_up(), 1);
    skip(Duration::from_secs(30)).await;
    eventually("it shows", async || auth_is_up() == 0).await;
    faults.clear();
    skip(Duration::from_secs(30)).await;
    eventually("it is over", async || auth_is_up() == 1).await;
    world.stop().await;
}

#[tokio::test]
async fn a_scrape_shows_what_happened() {
    let world = World::start().await;
    world.add(crate::world::row(1, "ALIAS"));
    world.messages(2).await;
    world.drained().await;
    for call in [
        "call=\"delete\",dependency=\"community_api\"",
        "call=\"publish\",dependency=\"sns\"",
    ] {
        let series = format!("offender_call_seconds_count{{{call},outcome=\"ok\"}}");
        world.until(&series, |calls| calls == 1.0).await;
    }
    world.stop().await;
}
