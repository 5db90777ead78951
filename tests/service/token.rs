//! The token: one request for all callers, renewal, and replacement after a refusal.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::world::{World, add, add_rows, eventually, row, sandbox, serve};
use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use sandbox::{Endpoint, Fault};
use tokio::time::Instant;

#[tokio::test]
async fn one_fetch_serves_all_tasks() {
    let sandbox = sandbox().await;
    for offender in 1..=5 {
        add_rows(&sandbox, offender, 1..=10);
    }
    sandbox
        .faults()
        .once(Endpoint::Token, Fault::Latency(Duration::from_millis(200)));
    let world = World::around(sandbox, &[]).await;
    world.messages(50).await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::Token), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_call_repeated_once() {
    let world = World::start().await;
    world.add(row(1, "CONTACT"));
    world.messages(1).await;
    world.sandbox.auth().revoke_all();
    for offender in 1..=5 {
        add_rows(&world.sandbox, offender, 1..=4);
    }
    world.messages(21).await;
    world.drained().await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::Token), 2);
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    world.stop().await;
}

#[tokio::test]
async fn a_token_without_lifetime_is_kept() {
    let sandbox = sandbox().await;
    let http = reqwest::Client::new();
    let token: serde_json::Value = http
        .post(format!("{}/oauth/token", sandbox.auth_url()))
        .basic_auth("probation-offender-events", Some("clientsecret"))
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let body = serde_json::json!({"access_token": token["access_token"], "token_type": "BEARER"})
        .to_string();
    sandbox
        .faults()
        .always(Endpoint::Token, Fault::body(200, body));
    add_rows(&sandbox, 1, 1..=20);
    let world = World::around(sandbox, &[]).await;
    world.messages(20).await;
    assert_eq!(
        world.sandbox.faults().calls(Endpoint::Token),
        2,
        "the test's own and the service's"
    );
    world.stop().await;
}

#[tokio::test]
async fn credentials_with_every_kind_of_character_reach_auth_unharmed() {
    let secret = "p:a+s%s &=/?ü\"'";
    let settings = sandbox::Settings {
        timings: sandbox::Timings {
            serve_after_seconds: 0,
            ..sandbox::Timings::default()
        },
        client_secret: secret.to_owned(),
        ..sandbox::Settings::default()
    };
    let sandbox = sandbox::Sandbox::start(settings).await.unwrap();
    add_rows(&sandbox, 1, 1..=1);
    let world = World::around(sandbox, &[("OAUTH_CLIENT_SECRET", secret)]).await;
    world.messages(1).await;
    world.stop().await;
}

#[tokio::test]
async fn wrong_credentials_claim_nothing_and_leave_the_pod_alive() {
    let sandbox = sandbox().await;
    add_rows(&sandbox, 1, 1..=1);
    let world = World::around(sandbox, &[("OAUTH_CLIENT_SECRET", "wrong")]).await;
    world
        .until("offender_poll_total", |polls| polls > 3.0)
        .await;
    assert_eq!(world.sandbox.faults().calls(Endpoint::NextUpdate), 0);
    assert!(world.is_live().await);
    world.stop().await;
}

/// The requests to a server that is both hmpps-auth and an idle community-api.
type Requests = Arc<Mutex<Vec<(String, HeaderMap, String)>>>;

async fn auth_and_community() -> (String, Requests) {
    let requests = Requests::default();
    let noted = requests.clone();
    let answer = async move |method: Method, uri: Uri, headers: HeaderMap, body: String| {
        let asked = format!("{method} {}", uri.path());
        noted.lock().unwrap().push((asked, headers, body));
        match uri.path() {
            "/oauth/token" => r#"{"access_token":"abc","expires_in":3600}"#.into_response(),
            "/health/ping" => StatusCode::OK.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    };
    (serve(Router::new().fallback(answer)).await, requests)
}

#[tokio::test]
async fn the_token_is_requested_with_basic_credentials_and_not_sent_with_pings() {
    let (address, requests) = auth_and_community().await;
    let variables = [
        ("OAUTH_ENDPOINT_URL", address.as_str()),
        ("COMMUNITY_ENDPOINT_URL", &address),
        ("OAUTH_CLIENT_ID", "a:client"),
        ("OAUTH_CLIENT_SECRET", "se cret+/%"),
    ];
    let world = World::start_with(&variables).await;
    let of = |asked: &str| {
        let requests = requests.lock().unwrap();
        let of_this = requests.iter().filter(|(other, ..)| other == asked);
        of_this.cloned().collect::<Vec<_>>()
    };
    let claim = "GET /secure/offenders/nextUpdate";
    eventually("rows are asked for", async || !of(claim).is_empty()).await;
    let health = format!("{}/health", world.address);
    assert_eq!(world.http.get(health).send().await.unwrap().status(), 200);

    let (_, headers, body) = &of("POST /oauth/token")[0];
    assert_eq!(body, "grant_type=client_credentials&scope=read");
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(headers["accept"], "application/json");
    // RFC 6749, section 2.3.1: both parts are form-encoded first. This is a%3Aclient:se+cret%2B%2F%25.
    let credentials = "Basic YSUzQWNsaWVudDpzZStjcmV0JTJCJTJGJTI1";
    assert_eq!(headers["authorization"], credentials);
    assert_eq!(of(claim)[0].1["authorization"], "Bearer abc");
    let pings = of("GET /health/ping");
    assert_eq!(pings.len(), 2);
    assert!(
        pings
            .iter()
            .all(|(_, headers, _)| !headers.contains_key("authorization"))
    );
    world.stop().await;
}

/// Like hmpps-auth with a signing key that community-api does not know.
#[tokio::test]
async fn tokens_that_are_all_refused_are_fetched_seldom() {
    let sandbox = sandbox().await;
    sandbox.delius().seed_people(32).unwrap();
    for offender in 1..=32 {
        add(&sandbox, row(offender, "CONTACT"));
    }
    let refuse = Fault::status(401);
    sandbox.faults().always(Endpoint::Identifiers, refuse);
    let world = World::around(sandbox, &[]).await;
    eventually("many calls are refused", async || {
        world.sandbox.faults().calls(Endpoint::Identifiers) > 96
    })
    .await;
    // The first one, and one after its refusal. More come only after a pause.
    let fetched = world.sandbox.faults().calls(Endpoint::Token);
    assert!(fetched <= 4, "{fetched} tokens");
    world.sandbox.faults().clear();
    world.messages(32).await;
    world.stop().await;
}

#[tokio::test]
async fn a_failing_hmpps_auth_gets_few_requests() {
    let sandbox = sandbox().await;
    sandbox.delius().seed_people(32).unwrap();
    for offender in 1..=32 {
        add(&sandbox, row(offender, "CONTACT"));
    }
    sandbox
        .faults()
        .always(Endpoint::Identifiers, Fault::status(500));
    let world = World::around(sandbox, &[]).await;
    let faults = world.sandbox.faults();
    let in_trouble = "offender_rows_in_trouble{step=\"identifiers\"}";
    world.until(in_trouble, |rows| rows == 32.0).await;
    faults.clear();
    faults.always(Endpoint::Token, Fault::status(503));
    world.sandbox.auth().revoke_all();
    let (started, before) = (Instant::now(), faults.calls(Endpoint::Token));
    eventually("there was time for many fetches", async || {
        started.elapsed() > Duration::from_secs(1)
    })
    .await;
    let fetches = faults.calls(Endpoint::Token) - before;
    // Immediately, and 0.25 and 0.75 s later.
    assert!((1..=4).contains(&fetches), "{fetches} fetches");
    faults.clear();
    world.stop().await;
}

#[tokio::test]
async fn a_call_without_a_token_is_not_counted() {
    let sandbox = sandbox().await;
    sandbox.faults().always(Endpoint::Token, Fault::status(503));
    let world = World::around(sandbox, &[]).await;
    let failed = "offender_poll_results_total{result=\"no_token\"}";
    world.until(failed, |polls| polls >= 1.0).await;
    let metrics = world.metrics.to_text().unwrap();
    let has_calls = |dependency: &str| {
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with("offender_call_seconds"));
        lines.any(|line| line.contains(dependency))
    };
    assert!(has_calls("dependency=\"auth\""), "{metrics}");
    assert!(!has_calls("dependency=\"community_api\""), "{metrics}");
    world.stop().await;
}
