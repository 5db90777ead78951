//! Four processes of the service, with the sandbox in a separate process. Pods are killed and restarted all the time,
//! SNS throttles, community-api fails occasionally, and locks expire after seconds. Every event still arrives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sandbox::{Delius, Timings};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const ROWS: usize = 1_000;
const PODS: usize = 4;
const MAX_IN_FLIGHT: usize = 8;
const BETWEEN_KILLS: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(90);
const WITH_GENERIC: [&str; 5] = [
    "ALIAS",
    "OFFENDER",
    "OFFENDER_ADDRESS",
    "OFFENDER_MANAGER",
    "OFFICER",
];

/// The world as a process, and its three addresses.
struct World {
    _process: Child,
    addresses: BTreeMap<String, String>,
}

impl World {
    async fn start(database: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-sandbox"));
        command.args([
            "serve",
            "--community-port",
            "0",
            "--auth-port",
            "0",
            "--topic-port",
            "0",
            "--page-port",
            "0",
        ]);
        command.args([
            "--serve-after-seconds",
            "0",
            "--lock-expiry-seconds",
            "4",
            "--token-lifetime-seconds",
            "70",
        ]);
        for fault in [
            "publish-batch=throttle@0.05",
            "publish-batch=entry:InternalError@0.05",
            "next-update=latency:15",
            "next-update=503@0.02",
            "identifiers=500@0.05",
            "identifiers=latency:5",
            "publish-batch=latency:10",
            "delete-update=latency:20",
            "delete-update=lose-answer@0.05",
        ] {
            command.args(["--fault", fault]);
        }
        command.arg("--database").arg(database);
        let mut process = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut addresses = BTreeMap::new();
        while addresses.len() < 4 {
            let line = lines.next_line().await.unwrap().unwrap();
            let (name, address) = line.split_once(' ').unwrap();
            addresses.insert(name.to_owned(), address.to_owned());
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            _process: process,
            addresses,
        }
    }

    fn pod(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-service"));
        command.env_clear().envs([
            (
                "COMMUNITY_ENDPOINT_URL",
                self.addresses["community-api"].as_str(),
            ),
            ("OAUTH_ENDPOINT_URL", &self.addresses["hmpps-auth"]),
            ("OAUTH_CLIENT_ID", "probation-offender-events"),
            ("OAUTH_CLIENT_SECRET", "clientsecret"),
            ("HMPPS_SQS_PROVIDER", "localstack"),
            ("HMPPS_SQS_LOCALSTACKURL", &self.addresses["topic"]),
            ("SERVER_PORT", "0"),
            ("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "100"),
            ("OFFENDERUPDATEPOLL_LOCKEXPIRY", "4s"),
            ("API_CLAIMTIMEOUT", "4s"),
            ("API_CALLTIMEOUT", "1s"),
            ("HMPPS_SQS_CALLTIMEOUT", "1s"),
            ("RUST_LOG", "warn"),
        ]);
        command.env("OFFENDERUPDATEPOLL_MAXINFLIGHT", MAX_IN_FLIGHT.to_string());
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn messages(&self) -> Vec<serde_json::Value> {
        let messages = reqwest::get(format!("{}/messages", self.addresses["topic"]))
            .await
            .unwrap();
        messages.json().await.unwrap()
    }
}

#[tokio::test]
async fn killed_pods_and_failing_neighbours_lose_no_event_and_repeat_few() {
    let directory = std::env::temp_dir().join(format!("chaos-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&directory).unwrap();
    let database = directory.join("delius.sqlite");
    let delius = Delius::open(&database, Timings::default()).unwrap();
    delius.seed_people(300).unwrap();
    delius.seed_backlog(ROWS).unwrap();
    let rows = delius.updates().unwrap();
    let generic = |table: &Option<String>| {
        table
            .as_deref()
            .is_some_and(|table| WITH_GENERIC.contains(&table))
    };
    let specific: BTreeSet<i64> = rows.iter().filter_map(|row| row.source_record_id).collect();
    let generics = rows.iter().filter(|row| generic(&row.source_table)).count();
    assert_eq!(specific.len(), ROWS);

    let world = World::start(&database).await;
    let mut pods: Vec<Child> = (0..PODS).map(|_| world.pod()).collect();
    let started = Instant::now();
    let mut kills = 0;
    while delius.count_updates().unwrap() > 0 {
        assert!(
            started.elapsed() < PATIENCE,
            "{} rows are left",
            delius.count_updates().unwrap()
        );
        sleep(BETWEEN_KILLS).await;
        let victim = kills % PODS;
        pods[victim].kill().await.unwrap();
        pods[victim] = world.pod();
        kills += 1;
    }

    let messages = world.messages().await;
    let mut ids = BTreeSet::new();
    let (mut specific_seen, mut generic_seen) = (BTreeSet::new(), 0);
    for message in &messages {
        let body: serde_json::Value =
            serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        if !ids.insert(message["attributes"]["id"][1].as_str().unwrap()) {
            continue;
        }
        match body["sourceId"].as_i64() {
            Some(record) => assert!(specific_seen.insert(record), "two ids for one event"),
            None => generic_seen += 1,
        }
    }
    assert_eq!(specific_seen, specific);
    assert_eq!(generic_seen, generics);
    let repeated = messages.len() - ids.len();
    let limit = 2 * kills * MAX_IN_FLIGHT;
    // Directly to the terminal, so that a quiet run is visible.
    let seconds = started.elapsed().as_secs_f64();
    let _ = writeln!(
        std::io::stderr(),
        "chaos: {ROWS} rows, {kills} kills, {repeated} of {} messages repeated, {seconds:.1} s",
        messages.len()
    );
    assert!(
        repeated <= limit,
        "{repeated} messages repeated after {kills} kills"
    );
    drop(pods);
    std::fs::remove_dir_all(&directory).unwrap();
}
