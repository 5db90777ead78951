//! SNS' answers, code by code, for a whole call and for an entry of a batch. Also credentials that expire and return.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::response::IntoResponse;

use crate::binary::{Service, command, text};
use crate::ingestion::Ingestion;
use crate::world::{
    self, PATIENCE, QUICK, World, add, eventually, expire_locks, free_port, row, sandbox,
};
use sandbox::{Endpoint, Fault, Rule, Sandbox};

/// Errors to retry: contention, faults of SNS, faults of the whole topic or account.
const TEMPORARY: &[(u16, &str)] = &[
    (500, "InternalError"),
    (500, "InternalFailure"),
    (503, "ServiceUnavailable"),
    (400, "Throttling"),
    (400, "ThrottlingException"),
    (429, "Throttled"),
    (400, "KMSThrottling"),
    (400, "KMSThrottlingException"),
    (400, "RequestTimeout"),
    (403, "AuthorizationError"),
    (403, "AccessDenied"),
    (404, "NotFound"),
    (400, "KMSDisabled"),
    (400, "KMSAccessDenied"),
    (400, "KMSNotFound"),
    (400, "KMSInvalidState"),
    (403, "KMSOptInRequired"),
    (403, "InvalidSecurity"),
    (403, "InvalidClientTokenId"),
    (403, "ExpiredToken"),
    (403, "SignatureDoesNotMatch"),
    (400, "SomethingNew"),
];

/// Errors of the row itself.
const REFUSALS: &[(u16, &str)] = &[
    (400, "InvalidParameter"),
    (400, "InvalidParameterException"),
    (400, "ParameterValueInvalid"),
    (400, "InvalidParameterValue"),
    (400, "ValidationException"),
    (400, "BatchRequestTooLong"),
];

fn forms((status, code): (u16, &str)) -> [Fault; 2] {
    [
        Fault::sns(status, code),
        // KMSThrottling claims to be the sender's fault, and so may others.
        Fault::SnsEntryError {
            entry: None,
            code: code.to_owned(),
            sender_fault: true,
        },
    ]
}

/// A world with a row for each error in each form, each for a different offender.
async fn world_with(errors: &[(u16, &str)]) -> (World, usize) {
    let world = World::start().await;
    let sandbox = &world.sandbox;
    sandbox.delius().seed_people(100).unwrap();
    // The topic works: it has accepted a message.
    world.add(row(1, "CONTACT"));
    world.messages(1).await;
    let faults = errors.iter().copied().flat_map(forms);
    let mut rows = 0;
    for (offender, fault) in (10..).zip(faults) {
        let rule = Rule::new(Endpoint::PublishBatch, fault);
        sandbox.faults().inject(Rule {
            offender_id: Some(offender),
            times: Some(1),
            ..rule
        });
        add(sandbox, row(offender, "ALIAS"));
        rows += 1;
    }
    (world, rows)
}

#[tokio::test]
async fn each_temporary_error_is_retried_until_both_events_are_published_once() {
    let (world, rows) = world_with(TEMPORARY).await;
    world.messages(1 + 2 * rows).await;
    world.drained().await;
    assert_eq!(world.sandbox.topic().len(), 1 + 2 * rows);
    assert_eq!(
        world
            .metric("offender_updates_total{type=\"failed\"}")
            .await,
        0.0
    );
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_leaves_its_row_and_loses_no_place() {
    let (world, rows) = world_with(REFUSALS).await;
    let refused = "offender_updates_left_locked_total{reason=\"refused\"}";
    world.until(refused, |left| left == rows as f64).await;
    assert_eq!(
        world.sandbox.faults().calls(Endpoint::PublishBatch),
        rows as u64 + 1
    );
    assert_eq!(
        world
            .metric("offender_updates_total{type=\"failed\"}")
            .await,
        rows as f64
    );
    assert_eq!(world.metric("offender_places_lost").await, 0.0);
    assert_eq!(world.sandbox.topic().len(), 1);
    world.stop().await;
}

/// A FIFO topic, another account's ARN: SNS refuses every call, and no row is at fault.
#[tokio::test]
async fn a_topic_that_refuses_every_call_costs_no_row() {
    let sandbox = sandbox().await;
    let refuse = Fault::sns(400, "InvalidParameter");
    sandbox.faults().always(Endpoint::PublishBatch, refuse);
    sandbox.delius().seed_people(40).unwrap();
    for offender in 1..=40 {
        add(&sandbox, row(offender, "CONTACT"));
    }
    expire_locks(&sandbox);
    let world = World::around(sandbox, &[]).await;
    world
        .until("offender_places_lost", |lost| lost >= 31.0)
        .await;
    world.sandbox.faults().clear();
    world.messages(40).await;
    world.drained().await;
    let failed = "offender_updates_total{type=\"permanentlyFailed\"}";
    assert_eq!(world.metric(failed).await, 0.0);
    assert_eq!(world.sandbox.faults().calls(Endpoint::MarkAsFailed), 0);
    world.stop().await;
}

/// The SDK panics over them. No row is left, and health shows it.
#[tokio::test]
async fn bad_credentials_of_the_chain_keep_rows_in_trouble() {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "CONTACT"));
    let port = free_port().to_string();
    let more = [
        ("AWS_ACCESS_KEY_ID", "AKIA\nX"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("SERVER_PORT", &*port),
    ];
    let service = with_default_chain(&sandbox, "", &more);
    let text = async |path: &str| {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await;
        answer.unwrap().text().await.unwrap()
    };
    let in_trouble = "offender_rows_in_trouble{step=\"publish\"} 1";
    eventually("it is in trouble", async || {
        sandbox.faults().calls(Endpoint::Identifiers) > 0
            && text("/prometheus").await.contains(in_trouble)
    })
    .await;
    let health = text("/health").await;
    assert!(
        health.contains("check the credentials for characters that an HTTP header cannot contain"),
        "{health}"
    );
    service.terminate().await;
}

/// What was never sent cannot be on the topic, so publishing it later is not a redelivery.
#[tokio::test]
async fn late_credentials_cause_no_redelivery() {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "CONTACT"));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let credentials = format!("http://{}/credentials", silent.local_addr().unwrap());
    let port = free_port();
    let more = [QUICK[1], ("SERVER_PORT", &port.to_string())];
    let service = with_default_chain(&sandbox, &credentials, &more);
    let metrics = async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/prometheus")).await;
        answer.unwrap().text().await.unwrap()
    };
    let calls = "offender_call_seconds_count{call=\"publish\",dependency=\"sns\",outcome=";
    let unauthorised = format!("{calls}\"unauthorised\"}} 2");
    eventually("two publishes failed", async || {
        sandbox.faults().calls(Endpoint::Identifiers) > 0 && metrics().await.contains(&unauthorised)
    })
    .await;
    let lost = "offender_updates_redelivered_total{cause=\"answer_lost\"} 0";
    assert!(metrics().await.contains(lost));
    service.terminate().await;
}

/// Credentials from an address, as a container gets them.
async fn credentials(are_there: Arc<AtomicBool>, fetches: Arc<AtomicUsize>) -> String {
    let answer = move || async move {
        fetches.fetch_add(1, Ordering::SeqCst);
        if are_there.load(Ordering::SeqCst) {
            let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
            let body = serde_json::json!({"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": "t", "Expiration": hour.to_string()});
            axum::Json(body).into_response()
        } else {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    };
    let router = axum::Router::new().route("/credentials", axum::routing::get(answer));
    world::serve(router).await + "/credentials"
}

fn with_default_chain(sandbox: &Sandbox, credentials: &str, more: &[(&str, &str)]) -> Service {
    let chain = [
        ("HMPPS_SQS_PROVIDER", "aws"),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
            sandbox.topic().arn(),
        ),
        ("AWS_ENDPOINT_URL", &sandbox.sns_url()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", credentials),
    ];
    Service::start(sandbox, &[&chain, more].concat())
}

#[tokio::test]
async fn rows_wait_until_the_default_chain_finds_credentials() {
    let sandbox = sandbox().await;
    for offender in 1..=5 {
        add(&sandbox, row(offender, "CONTACT"));
    }
    let are_there = Arc::new(AtomicBool::new(false));
    let credentials = credentials(are_there.clone(), Arc::default()).await;
    let service = with_default_chain(&sandbox, &credentials, &[]);
    eventually("a row is claimed", async || {
        sandbox.faults().calls(Endpoint::Identifiers) > 0
    })
    .await;
    assert_eq!(sandbox.faults().calls(Endpoint::PublishBatch), 0);
    are_there.store(true, Ordering::SeqCst);
    sandbox.topic().wait_for(5, PATIENCE).await.unwrap();
    let output = service.terminate().await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(sandbox.topic().len(), 5);
}

/// The SDK keeps credentials until they expire.
#[tokio::test]
async fn credentials_that_sns_calls_expired_are_fetched_again() {
    let sandbox = sandbox().await;
    let expired = Fault::sns(403, "ExpiredToken");
    sandbox.faults().once(Endpoint::PublishBatch, expired);
    add(&sandbox, row(1, "CONTACT"));
    let fetches = Arc::new(AtomicUsize::new(0));
    let credentials = credentials(Arc::new(AtomicBool::new(true)), fetches.clone()).await;
    let service = with_default_chain(&sandbox, &credentials, &[]);
    sandbox.topic().wait_for(1, PATIENCE).await.unwrap();
    assert_eq!(fetches.load(Ordering::SeqCst), 2);
    service.terminate().await;
}

/// STS, which answers with this status and quotes the request, token and all.
async fn sts(status: StatusCode, calls: Arc<AtomicUsize>) -> String {
    let answer = move |body: String| async move {
        calls.fetch_add(1, Ordering::SeqCst);
        (status, body)
    };
    world::serve(axum::Router::new().fallback(answer)).await
}

#[tokio::test]
async fn no_web_identity_token_is_logged_at_any_level() {
    let token = std::env::temp_dir().join(format!("web-identity-token-{}", std::process::id()));
    std::fs::write(&token, "eyJhbGciOiJSUzI1NiJ9.hush-hush.hush-hush").unwrap();
    tokio::join!(
        no_token_is_logged(StatusCode::OK, &token),
        no_token_is_logged(StatusCode::INTERNAL_SERVER_ERROR, &token),
    );
    std::fs::remove_file(token).unwrap();
}

/// STS answers with this status, and nothing useful.
async fn no_token_is_logged(status: StatusCode, token: &Path) {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "CONTACT"));
    let calls = Arc::new(AtomicUsize::new(0));
    let sts = sts(status, calls.clone()).await;
    let ingestion = Ingestion::start().await;
    let sns = sandbox.sns_url();
    let connection = ingestion.connection_string();
    let variables = [
        ("HMPPS_SQS_PROVIDER", "aws"),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
            sandbox.topic().arn(),
        ),
        ("AWS_ENDPOINT_URL_SNS", &sns),
        ("AWS_ENDPOINT_URL_STS", &sts),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::754256621582:role/irsa"),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", &connection),
        ("RUST_LOG", "trace"),
    ];
    let service = Service::start(&sandbox, &variables);
    eventually("STS was called again", async || {
        calls.load(Ordering::SeqCst) >= 2
    })
    .await;
    let mut check = command();
    check.envs(world::variables(&sandbox)).envs(variables);
    let check = check.arg("check").output().await.unwrap();
    let printed = text(&service.terminate().await) + &text(&check);
    assert!(
        printed.contains(&format!("\"stsAddress\":\"{sts}\"")),
        "{printed}"
    );
    assert!(printed.contains("credentials"), "{printed}");
    let traces = ingestion.of_kind("Message");
    assert!(!traces.is_empty());
    let sent = format!(
        "{printed}{traces:?}{:?}",
        ingestion.of_kind("RemoteDependency")
    );
    for secret in ["hush", "eyJ", "WebIdentityToken="] {
        let line = sent.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    assert_eq!(sandbox.faults().calls(Endpoint::PublishBatch), 0);
}

#[tokio::test]
async fn an_address_in_the_config_file_of_aws_is_shown() {
    let file = std::env::temp_dir().join(format!("aws-config-{}", std::process::id()));
    std::fs::write(&file, "[default]\nendpoint_url = localhost:4566\n").unwrap();
    let mut odd = command();
    odd.envs(world::variables(&sandbox().await));
    let odd = odd.env("AWS_CONFIG_FILE", &file).output().await.unwrap();
    assert_ne!(odd.status.code(), Some(0));
    assert!(
        text(&odd).contains("endpoint_url in AWS's config file must be"),
        "{}",
        text(&odd)
    );
    std::fs::write(&file, "[default]\nendpoint_url = https://sns.example\n").unwrap();
    let sandbox = sandbox().await;
    let service = Service::start(
        &sandbox,
        &[
            ("AWS_CONFIG_FILE", file.to_str().unwrap()),
            ("SERVER_PORT", "0"),
        ],
    );
    eventually("started", async || {
        sandbox.faults().calls(Endpoint::NextUpdate) > 0
    })
    .await;
    let printed = text(&service.terminate().await);
    let shown = "\"awsAddress\":\"https://sns.example\"";
    assert!(printed.contains(shown), "{printed}");
    std::fs::remove_file(file).unwrap();
}
