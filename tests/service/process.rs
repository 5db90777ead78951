//! The binary as a process: exit codes, signals, what it prints.

use std::process::{Output, Stdio};

use crate::ingestion::{Ingestion, KEY};
use crate::world::{add, eventually, row, sandbox, variables};
use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Sandbox};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// The service in a process of its own. What it prints is read all the time: a full pipe would hold it up.
pub struct Service {
    id: u32,
    output: JoinHandle<Output>,
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probation-offender-events"));
    command
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Service {
    pub fn start(sandbox: &Sandbox, more: &[(&str, &str)]) -> Self {
        let mut command = command();
        command.envs(variables(sandbox)).envs(more.iter().copied());
        let child = command.spawn().unwrap();
        Self {
            id: child.id().unwrap(),
            output: tokio::spawn(async { child.wait_with_output().await.unwrap() }),
        }
    }

    /// Its memory, as the system sees it.
    pub fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim_end_matches("kB").trim();
        number.parse().unwrap()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Output {
        self.output.await.unwrap()
    }

    /// Sends SIGTERM, and waits for the end.
    pub async fn terminate(self) -> Output {
        self.signal("TERM").await
    }

    /// Sends any signal, and waits for the end.
    pub async fn signal(self, signal: &str) -> Output {
        let id = self.id.to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.await.unwrap().success());
        self.ended().await
    }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test]
async fn bad_configuration_is_one_message_that_lists_every_fault_and_exit_code_64() {
    let output = command()
        .env("SERVER_PORT", "http")
        .env("OAUTH_CLIENT_SECRET", "hush-hush")
        .env("COMMUNITY_ENDPOINT_URL", "community-api")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let printed = text(&output);
    for fault in [
        "COMMUNITY_ENDPOINT_URL is \"community-api\"; it wants an http(s) address",
        "OAUTH_ENDPOINT_URL is not set; it wants an http(s) address",
        "SERVER_PORT is \"http\"; it wants a port, 0 to 65535",
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN is not set",
    ] {
        assert!(printed.contains(fault), "{printed}");
    }
    assert!(
        !printed.contains("hush-hush") && !printed.contains("panicked"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_ends_the_process_with_1() {
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

#[tokio::test]
async fn sigterm_and_sigint_end_the_process_with_0() {
    for signal in ["TERM", "INT"] {
        let sandbox = sandbox().await;
        add(&sandbox, row(1, "ALIAS"));
        let service = Service::start(&sandbox, &[]);
        sandbox
            .topic()
            .wait_for(2, crate::world::PATIENCE)
            .await
            .unwrap();
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
async fn the_log_has_a_json_line_for_a_row_with_ids_outcome_and_milliseconds() {
    let sandbox = sandbox().await;
    let id = add(&sandbox, row(2, "ALIAS"));
    let service = Service::start(&sandbox, &[]);
    eventually("drained", async || {
        sandbox.delius().count_updates().unwrap() == 0
    })
    .await;
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
async fn log_format_text_is_for_people() {
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
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
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
        Fault::SnsError {
            status: 403,
            code: "SignatureDoesNotMatch".into(),
        },
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
    eventually("drained", async || {
        sandbox.delius().count_updates().unwrap() == 0
    })
    .await;
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
    let told = |event: &serde_json::Value| event.to_string().contains("X000001");
    assert!(!events.is_empty() && events.iter().all(told), "{events:?}");
}
