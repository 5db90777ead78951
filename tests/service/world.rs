//! A service and its world, made for one test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use probation_offender_events::application::Application;
use probation_offender_events::config::Settings;
use probation_offender_events::metrics::Metrics;
use sandbox::delius::NewUpdate;
use sandbox::{Message, Sandbox, Timings};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The longest wait of a test.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Short limits, so that a hanging call costs little time.
pub const QUICK: [(&str, &str); 2] = [
    ("API_CALLTIMEOUT", "500ms"),
    ("HMPPS_SQS_CALLTIMEOUT", "500ms"),
];

pub struct World {
    pub sandbox: Sandbox,
    pub address: String,
    pub management_address: String,
    pub http: reqwest::Client,
    pub metrics: Arc<Metrics>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// A sandbox in which rows are served at once.
pub async fn sandbox() -> Sandbox {
    sandbox_with(Timings {
        serve_after_seconds: 0,
        ..Timings::default()
    })
    .await
}

pub async fn sandbox_with(timings: Timings) -> Sandbox {
    Sandbox::start(sandbox::Settings {
        timings,
        ..sandbox::Settings::default()
    })
    .await
    .unwrap()
}

/// The settings of a service in this sandbox, with a short poll interval.
pub fn variables(sandbox: &Sandbox) -> BTreeMap<&'static str, String> {
    let mut variables = sandbox.environment();
    variables.insert("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", "50".into());
    variables.insert("BUILD_NUMBER", "2026-11-24.1.abcdef".into());
    // A test with rows in trouble need not wait for them at its end.
    variables.insert("SHUTDOWN_GRACEPERIOD", "2s".into());
    variables
}

impl World {
    pub async fn start() -> Self {
        Self::around(sandbox().await, &[]).await
    }

    pub async fn start_with(more: &[(&'static str, &str)]) -> Self {
        Self::around(sandbox().await, more).await
    }

    /// A service with a prepared sandbox.
    pub async fn around(sandbox: Sandbox, more: &[(&'static str, &str)]) -> Self {
        let mut variables = variables(&sandbox);
        variables.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let settings = Settings::from_variables(|name| variables.get(name).cloned());
        let metrics = Arc::new(Metrics::new().unwrap());
        let application = Application::build(settings.unwrap(), metrics.clone());
        let application = application.await.unwrap();
        let local = |port| format!("http://127.0.0.1:{port}");
        let address = local(application.address().unwrap().port());
        let management_address = local(application.management_address().unwrap().port());
        let stop = CancellationToken::new();
        let running = tokio::spawn(application.run_until_stopped(stop.clone()));
        Self {
            sandbox,
            address,
            management_address,
            http: reqwest::Client::new(),
            metrics,
            stop,
            running,
        }
    }

    /// Adds a row without the triggers.
    pub fn add(&self, update: NewUpdate) -> i64 {
        add(&self.sandbox, update)
    }

    pub async fn messages(&self, count: usize) -> Vec<Message> {
        self.sandbox
            .topic()
            .wait_for(count, PATIENCE)
            .await
            .unwrap()
    }

    pub async fn drained(&self) {
        drained(&self.sandbox).await;
    }

    /// Waits until this series has such a value.
    pub async fn until(&self, series: &str, is_so: impl Fn(f64) -> bool) {
        let started = Instant::now();
        loop {
            let value = self.metric(series).await;
            if is_so(value) {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "after {PATIENCE:?}, {series} is still {value}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn metric(&self, series: &str) -> f64 {
        let text = self
            .http
            .get(format!("{}/prometheus", self.management_address))
            .send()
            .await
            .unwrap();
        let text = text.text().await.unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    pub async fn is_live(&self) -> bool {
        let answer = self
            .http
            .get(format!("{}/health/liveness", self.address))
            .send()
            .await
            .unwrap();
        answer.status() == 200
    }

    pub async fn stop(self) -> Sandbox {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.sandbox
    }
}

pub async fn drained(sandbox: &Sandbox) {
    eventually("all rows are gone", async || {
        sandbox.delius().count_updates().unwrap() == 0
    })
    .await;
}

/// Makes each row one that was claimed, and whose lock has expired.
pub fn expire_locks(sandbox: &Sandbox) {
    let sql = "UPDATE offender_delta SET status = 'INPROGRESS', last_updated_datetime = 0";
    sandbox.delius().execute(sql).unwrap();
}

pub fn add(sandbox: &Sandbox, update: NewUpdate) -> i64 {
    sandbox.delius().insert_update(&update, now()).unwrap()
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub fn row(offender_id: i64, source_table: &str) -> NewUpdate {
    NewUpdate {
        offender_id,
        source_table: Some(source_table.into()),
        ..NewUpdate::default()
    }
}

pub fn attribute<'a>(message: &'a Message, name: &str) -> &'a str {
    message.attributes.get(name).map_or("", |(_, value)| value)
}

pub fn event_types(messages: &[Message]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| attribute(message, "eventType"))
        .collect()
}

/// Repeats a check until it succeeds.
pub async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Adds changes to these records of CONTACT.
pub fn add_rows(sandbox: &Sandbox, offender: i64, records: std::ops::RangeInclusive<i64>) {
    for record in records {
        add(
            sandbox,
            NewUpdate {
                source_record_id: Some(record),
                ..row(offender, "CONTACT")
            },
        );
    }
}

/// Serves a stand-in on a free port. Returns its address.
pub async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A port below the system's ephemeral ports, so that no other test gets it.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(20_000..32_000));
    let is_free = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    ports.find(is_free).unwrap()
}
