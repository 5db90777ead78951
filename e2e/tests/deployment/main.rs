//! What is deployed besides the binary: the Helm chart, the alerts and the dashboard. Python scripts in this folder do
//! the work, with Helm's engine, Kubernetes' schemas, promtool and a real Prometheus.
//!
//! `e2e/tests/deployment/install-tools.sh` installs these. `HELM_CHARTS_DIR` can name a folder with the charts that
//! ours depends on. If a tool is missing, the test prints `SKIPPED`. With `CI` set, it fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use sandbox::delius::NewUpdate;
use sandbox::{Endpoint, Fault, Sandbox, Timings};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);
const CHART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../helm_deploy/probation-offender-events"
);
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deployment");
const RUNBOOK: &str =
    "https://github.com/ministryofjustice/probation-offender-events/blob/main/docs/operating.md#";
/// The prefix of every alert's name.
const PREFIX: &str = "ProbationOffenderEvent";
/// The exit code of a script whose tools are missing.
const NOT_POSSIBLE: i32 = 77;

/// The Python of the virtual environment that install-tools.sh makes.
fn python() -> PathBuf {
    e2e::deployment_tools().join("bin/python")
}

async fn output(command: &mut Command) -> Option<Output> {
    match command.kill_on_drop(true).output().await {
        Ok(output) => Some(output),
        Err(error) => {
            let program = command.as_std().get_program().to_string_lossy();
            e2e::skip(&format!(
                "{program}: {error}; e2e/tests/deployment/install-tools.sh installs it"
            ));
            None
        }
    }
}

/// What a tool printed. `None` if the test must be skipped, which it then reports.
async fn run(command: &mut Command) -> Option<String> {
    let output = output(command.current_dir(HERE)).await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(NOT_POSSIBLE) {
        e2e::skip(printed.trim());
        return None;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    Some(printed)
}

fn script(name: &str, argument: &str) -> Command {
    let mut command = Command::new(python());
    // No __pycache__ in the work tree.
    command.args(["-B", name, argument]);
    command
}

#[tokio::test]
async fn every_values_file_renders_to_manifests_that_kubernetes_takes() {
    run(&mut script("manifests.py", "check")).await;
}

/// The service in a separate process.
fn service(variables: &BTreeMap<String, String>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_e2e-service"))
        .env_clear()
        .envs(variables)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn terminate(mut service: Child) {
    let id = service.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.await.unwrap().success());
    let ended = timeout(PATIENCE, service.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn the_binary_accepts_the_environment_of_every_rendered_pod() {
    let Some(printed) = run(&mut script("manifests.py", "environments")).await else {
        return;
    };
    let environments: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(&printed).unwrap();
    assert_eq!(environments.len(), 5);
    for (name, mut variables) in environments {
        for port in ["SERVER_PORT", "MANAGEMENT_SERVER_PORT"] {
            // Any free port, since pods here share one network.
            let old = variables.insert(port.into(), "0".into());
            assert!(old.is_some(), "{name} has no {port}");
        }
        // The addresses are real and must not be called. So polling is off, and the process is killed as soon as it has
        // started: it would send its first telemetry after 5 s or when it stops, and check health after 30 s.
        let polling = variables.insert("OFFENDERUPDATEPOLL_ENABLED".into(), "false".into());
        assert_eq!(polling.as_deref(), Some("true"), "{name}");
        let mut service = service(&variables);
        let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        // The log of this binary has only the library's lines. This one shows that the service is complete.
        let started = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                printed.push_str(&line);
                if line.contains(r#""message":"started""#) {
                    return true;
                }
            }
            false
        };
        let started = timeout(PATIENCE, started).await.unwrap();
        assert!(
            started,
            "{name}: the service ended: {:?}",
            service.wait().await
        );
        service.kill().await.unwrap();
        let insights = r#""applicationInsights":"https://dc.services.visualstudio.com""#;
        assert!(printed.contains(insights), "{name}: {printed}");
    }
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_only_then() {
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        command.args(arguments);
        command
    };
    let rules = format!("{CHART}/alerts.yml");
    if run(&mut promtool(&["check", "rules", &rules]))
        .await
        .is_some()
    {
        run(&mut promtool(&["test", "rules", "alerts_test.yml"])).await;
    }
}

#[test]
fn every_alert_is_tested_and_leads_to_its_section_of_the_runbook() {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let alerts = read(&Path::new(CHART).join("alerts.yml"));
    let tests = read(&Path::new(HERE).join("alerts_test.yml"));
    let runbook = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md"));
    let anchors: Vec<_> = runbook
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading.replace(' ', "-")
        })
        .collect();
    let values = |text: &str, key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix(key))
            .map(str::to_owned)
            .collect()
    };
    let names = values(&alerts, "- alert: ");
    assert!(names.len() >= 7, "{names:?}");
    for name in &names {
        let of_it = || {
            tests
                .split("alertname: ")
                .skip(1)
                .filter(|test| test.starts_with(name.as_str()))
        };
        assert!(of_it().any(|test| test.contains("exp_labels")), "{name}");
        assert!(
            of_it().any(|test| test.contains("exp_alerts: []")),
            "{name}"
        );
    }
    let runbooks = values(&alerts, "runbook_url: ");
    assert_eq!(runbooks.len(), names.len());
    for (name, link) in names.iter().zip(runbooks) {
        let anchor = link.strip_prefix(RUNBOOK).unwrap();
        let words = |text: &str| text.replace('-', "").to_lowercase();
        assert_eq!(
            words(name),
            format!("{PREFIX}{}", words(anchor)).to_lowercase(),
            "an alert leads to the heading with its name"
        );
        assert!(
            anchors.iter().any(|heading| heading == anchor),
            "docs/operating.md has no heading for #{anchor}"
        );
        assert!(runbook.contains(&format!("`{name}`")), "{name}");
    }
}

#[tokio::test]
async fn a_real_prometheus_knows_everything_that_alerts_and_dashboard_ask_for() {
    if output(Command::new("prometheus").arg("--version"))
        .await
        .is_none()
        || output(Command::new(python()).arg("--version"))
            .await
            .is_none()
    {
        return;
    }
    let sandbox = Sandbox::start(sandbox::Settings {
        timings: Timings {
            serve_after_seconds: 0,
            ..Timings::default()
        },
        ..sandbox::Settings::default()
    })
    .await
    .unwrap();
    // For an outcome other than ok, which texts and queries use.
    sandbox.faults().once(Endpoint::Token, Fault::status(401));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut variables = sandbox.environment();
    variables.insert("MANAGEMENT_SERVER_PORT", port.to_string());
    variables.insert("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "200".into());
    variables.insert("RUST_LOG", "off".into());
    let variables = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let service = service(&variables.collect());
    for offender_id in 1..=3 {
        let row = NewUpdate {
            offender_id,
            source_table: Some("OFFENDER".into()),
            ..NewUpdate::default()
        };
        let now = jiff::Timestamp::now().as_second();
        sandbox.delius().insert_update(&row, now).unwrap();
    }
    let started = Instant::now();
    while sandbox.delius().count_updates().unwrap() > 0 {
        assert!(started.elapsed() < PATIENCE, "the rows are not published");
        sleep(Duration::from_millis(20)).await;
    }
    run(&mut script("queries.py", &format!("127.0.0.1:{port}"))).await;
    terminate(service).await;
    sandbox.stop().await;
}
