//! The binary as a process: exit codes, signals, what it prints.

use std::io::Write;
use std::time::Duration;

use crate::binary::{SERVICE, Service, command, command_of, text};
use crate::ingestion::{Ingestion, KEY};
use crate::world::{
    PATIENCE, add, drained, event_types, eventually, free_port, row, sandbox, variables,
};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_bad_configuration_lists_every_error_and_exits_with_64() {
    let output = command()
        .env("SERVER_PORT", "http")
        .env("OAUTH_CLIENT_SECRET", "hush-hush")
        .env("COMMUNITY_ENDPOINT_URL", "community-api")
        .env("AWS_ENDPOINT_URL_STS", "localhost:4566")
        .env("API_CALLTIMEOUT", "1")
        .env("RUST_LOG", "inof")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let printed = text(&output);
    for fault in [
        "COMMUNITY_ENDPOINT_URL must be an http(s) address, but is \"community-api\"",
        "OAUTH_ENDPOINT_URL must be an http(s) address, but is not set",
        "SERVER_PORT must be a port from 0 to 65535, but is \"http\"",
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN must be the ARN of a standard SNS topic",
        "AWS_ENDPOINT_URL_STS must be a full http(s) address, or unset, but is \"localhost:4566\"",
        "API_CALLTIMEOUT must be a duration from 100ms to 5m (without a unit: milliseconds), but is \"1\"",
        "RUST_LOG must be off, error, warn, info, debug or trace, also for single modules such as",
    ] {
        assert!(printed.contains(fault), "{printed}");
    }
    assert!(
        !printed.contains("hush-hush") && !printed.contains("panicked"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_taken_port_is_named_and_the_exit_code_is_1() {
    let sandbox = sandbox().await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Service::start(&sandbox, &[("SERVER_PORT", &port)])
        .ended()
        .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains(&format!("cannot listen on SERVER_PORT {port}")),
        "{}",
        text(&output)
    );
}

/// Sets the hard limit as well, so that the service cannot raise the limit.
#[tokio::test]
async fn many_connections_block_neither_probes_nor_polls() {
    let sandbox = sandbox().await;
    let port = free_port();
    let mut command = command_of("sh");
    command
        .args(["-c", "ulimit -n 96 && exec \"$0\"", SERVICE])
        .envs(variables(&sandbox))
        .env("SERVER_PORT", port.to_string());
    let service = Service::spawn(command);
    let url = format!("http://127.0.0.1:{port}/health/liveness");
    // Like the kubelet: each probe on a new connection.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0);
    let http = http.timeout(Duration::from_secs(2)).build().unwrap();
    let probe = async || {
        let answer = http.get(&url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    eventually("started", probe).await;
    let mut strangers = Vec::new();
    for _ in 0..150 {
        strangers.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    assert!(probe().await);
    add(&sandbox, row(1, "ALIAS"));
    sandbox.topic().wait_for(2, PATIENCE).await.unwrap();
    assert!(probe().await);
    service.terminate().await;
    drop(strangers);
}

#[tokio::test]
async fn each_stop_signal_settles_rows_and_exits_with_0() {
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let sandbox = sandbox().await;
        add(&sandbox, row(1, "ALIAS"));
        let service = Service::start(&sandbox, &[]);
        sandbox.topic().wait_for(2, PATIENCE).await.unwrap();
        let output = service.signal(signal).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(
            text(&output).contains("\"message\":\"stopped\""),
            "{}",
            text(&output)
        );
    }
}

#[tokio::test]
async fn other_signals_and_a_second_sigterm_change_nothing() {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "ALIAS"));
    let service = Service::start(&sandbox, &[]);
    sandbox.topic().wait_for(2, PATIENCE).await.unwrap();
    for signal in ["USR1", "USR2", "ALRM", "XFSZ", "PROF"] {
        service.send(signal).await;
    }
    add(&sandbox, row(2, "ALIAS"));
    sandbox.topic().wait_for(4, PATIENCE).await.unwrap();
    // A row to settle, so that the second SIGTERM comes before the end.
    let faults = sandbox.faults();
    faults.always(
        Endpoint::Identifiers,
        Fault::Latency(Duration::from_millis(300)),
    );
    let calls = faults.calls(Endpoint::Identifiers);
    add(&sandbox, row(3, "ALIAS"));
    eventually("claimed", async || {
        sandbox.faults().calls(Endpoint::Identifiers) > calls
    })
    .await;
    service.send("TERM").await;
    let output = service.terminate().await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(text(&output).matches("\"stopping\"").count(), 1);
    assert_eq!(sandbox.delius().count_updates().unwrap(), 0);
}

#[tokio::test]
async fn each_row_has_one_json_line_in_the_log() {
    let sandbox = sandbox().await;
    let id = add(&sandbox, row(2, "ALIAS"));
    let service = Service::start(&sandbox, &[]);
    drained(&sandbox).await;
    let output = service.terminate().await;
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let row = lines
        .iter()
        .find(|line| line["message"] == "row settled")
        .unwrap();
    assert_eq!(row["offenderId"], 2);
    assert_eq!(row["offenderDeltaId"], id);
    assert_eq!(row["eventType"], "OFFENDER_ALIAS_CHANGED");
    assert_eq!(row["outcome"], "published");
    assert!(row["milliseconds"].is_u64());
    assert_eq!(row["level"], "INFO");
}

#[tokio::test]
async fn a_table_with_nearly_a_known_name_is_logged_once() {
    let sandbox = sandbox().await;
    for (offender, table) in [(1, "alias"), (2, " ALIAS "), (3, "Alias"), (4, "CONTACT")] {
        add(&sandbox, row(offender, table));
    }
    let service = Service::start(&sandbox, &[]);
    let messages = sandbox.topic().wait_for(4, PATIENCE).await.unwrap();
    let mut types = event_types(&messages);
    types.sort_unstable();
    let expected = [
        " ALIAS _CHANGED",
        "Alias_CHANGED",
        "CONTACT_CHANGED",
        "alias_CHANGED",
    ];
    assert_eq!(types, expected);
    let printed = text(&service.terminate().await);
    let warnings = printed
        .lines()
        .filter(|line| line.contains("a sourceTable differs"));
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{printed}");
    assert!(warnings[0].contains("\"WARN\""), "{printed}");
    assert!(
        warnings[0].contains("\"similar_to\":\"ALIAS\""),
        "{printed}"
    );
}

#[tokio::test]
async fn a_claim_without_answer_is_logged_with_its_return_time() {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "ALIAS"));
    sandbox
        .faults()
        .once(Endpoint::NextUpdate, Fault::LoseAnswer);
    let service = Service::start(&sandbox, &[]);
    eventually("it claims again", async || {
        sandbox.faults().calls(Endpoint::NextUpdate) > 1
    })
    .await;
    let printed = text(&service.terminate().await);
    let line = printed
        .lines()
        .find(|line| line.contains("a claim got no answer"))
        .unwrap_or_else(|| panic!("{printed}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let comes_back_at: jiff::Timestamp = line["comes_back_at"].as_str().unwrap().parse().unwrap();
    let wait = comes_back_at.duration_since(jiff::Timestamp::now());
    assert!((500..=600).contains(&wait.as_secs()), "{line}");
}

#[tokio::test]
async fn an_unread_log_does_not_stop_the_service() {
    let sandbox = sandbox().await;
    let port = free_port();
    let (unread, log) = std::io::pipe().unwrap();
    let mut full = log.try_clone().unwrap();
    let mut command = command();
    command
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .envs(variables(&sandbox))
        .env("SERVER_PORT", port.to_string());
    // It ends when the pipe does.
    std::thread::spawn(move || full.write_all(&vec![b'.'; 1 << 20]));
    let service = Service::spawn(command);
    add(&sandbox, row(1, "ALIAS"));
    sandbox.topic().wait_for(2, PATIENCE).await.unwrap();
    let url = format!("http://127.0.0.1:{port}/health/liveness");
    assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    let output = service.terminate().await;
    assert_eq!(output.status.code(), Some(0));
    drop(unread);
}

#[tokio::test]
async fn warnings_of_one_kind_are_summed_up() {
    let sandbox = sandbox().await;
    for offender in 1..=30 {
        add(&sandbox, row(1_000_000 + offender, "ALIAS"));
    }
    let service = Service::start(&sandbox, &[]);
    eventually("all were looked up", async || {
        sandbox.faults().calls(Endpoint::Identifiers) >= 30
    })
    .await;
    let printed = text(&service.terminate().await);
    let is_row = |line: &&str| line.contains("\"WARN\"") && line.contains("\"offenderId\":");
    assert_eq!(printed.lines().filter(is_row).count(), 20, "{printed}");
    assert_eq!(printed.matches("\"more\":10").count(), 1, "{printed}");
}

#[tokio::test]
async fn log_format_text_is_readable() {
    let sandbox = sandbox().await;
    let service = Service::start(&sandbox, &[("LOG_FORMAT", "text")]);
    eventually("polled", async || {
        sandbox.faults().calls(Endpoint::NextUpdate) > 0
    })
    .await;
    let printed = text(&service.terminate().await);
    assert!(printed.contains("INFO started version="), "{printed}");
}

#[tokio::test]
async fn the_health_check_of_a_container_follows_readiness() {
    let sandbox = sandbox().await;
    let port = free_port().to_string();
    let check = async || {
        let mut command = command();
        command
            .arg("healthcheck")
            .envs(variables(&sandbox))
            .env("SERVER_PORT", &port);
        command.status().await.unwrap().code()
    };
    assert_eq!(check().await, Some(1));
    let service = Service::start(&sandbox, &[("SERVER_PORT", &port)]);
    eventually("ready", async || check().await == Some(0)).await;
    service.terminate().await;
}

/// Every kind of success and failure, with all logs on.
#[tokio::test]
async fn no_personal_data_and_no_secret_is_logged_at_any_level() {
    let sandbox = sandbox().await;
    let personal = r#"{"offenderId":"Alder Sample","crn":"X000001","primaryIdentifiers":{"crn":["X000001"],"nomsNumber":"A0001AA"}}"#;
    sandbox
        .faults()
        .once(Endpoint::NextUpdate, Fault::body(200, personal));
    sandbox
        .faults()
        .once(Endpoint::NextUpdate, Fault::body(500, personal));
    sandbox
        .faults()
        .once(Endpoint::Identifiers, Fault::body(200, personal));
    sandbox
        .faults()
        .once(Endpoint::Identifiers, Fault::body(500, personal));
    sandbox.faults().once(
        Endpoint::Token,
        Fault::body(
            200,
            r#"{"access_token":"hush\nhush","token_type":"bearer"}"#,
        ),
    );
    sandbox
        .faults()
        .once(Endpoint::PublishBatch, Fault::LoseAnswer);
    sandbox.faults().once(
        Endpoint::PublishBatch,
        Fault::sns(403, "SignatureDoesNotMatch"),
    );
    for record in 1..=5 {
        add(
            &sandbox,
            NewUpdate {
                source_record_id: Some(record),
                ..row(1, "OFFENDER")
            },
        );
    }
    let ingestion = Ingestion::start().await;
    let connection = ingestion.connection_string();
    let variables = [
        ("RUST_LOG", "trace"),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", &*connection),
    ];
    let service = Service::start(&sandbox, &variables);
    drained(&sandbox).await;
    let printed = text(&service.terminate().await);
    assert!(
        printed.contains("row settled") && printed.contains("a claim failed"),
        "{printed}"
    );
    for secret in [
        "X000001",
        "A0001AA",
        "Alder",
        "Sample",
        "clientsecret",
        "hush",
        "eyJ",
        "Bearer",
        "Basic ",
        KEY,
    ] {
        let line = printed.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    let traces = ingestion.of_kind("Message");
    assert!(!traces.is_empty());
    for personal in ["X000001", "A0001AA", "Alder"] {
        let is_free = |trace: &serde_json::Value| !trace.to_string().contains(personal);
        assert!(traces.iter().all(is_free), "{traces:?}");
    }
    // The CRN went where it belongs.
    let events = ingestion.of_kind("Event");
    let has_crn = |event: &serde_json::Value| event.to_string().contains("X000001");
    assert!(
        !events.is_empty() && events.iter().all(has_crn),
        "{events:?}"
    );
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let sandbox = sandbox().await;
    add(&sandbox, row(1, "CONTACT"));
    let port = free_port().to_string();
    let nowhere = "http://127.0.0.1:1";
    let variables = [
        ("HTTP_PROXY", nowhere),
        ("http_proxy", nowhere),
        ("ALL_PROXY", nowhere),
        ("SERVER_PORT", &port),
    ];
    let service = Service::start(&sandbox, &variables);
    sandbox.topic().wait_for(1, PATIENCE).await.unwrap();
    let mut healthcheck = command();
    healthcheck.envs(sandbox.environment()).envs(variables);
    let healthy = healthcheck.arg("healthcheck").status().await.unwrap();
    assert!(healthy.success());
    service.terminate().await;
}
