//! A Prometheus that scrapes all pods, with the chart's alerts for the namespace of each scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;

const ALERTS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../helm_deploy/probation-offender-events/alerts.yml"
));
const INTERVAL: &str = "15s";

/// A pod to scrape.
pub struct Target {
    pub namespace: String,
    pub pod: &'static str,
    pub port: u16,
}

pub struct Firing {
    /// Its name, without the common prefix.
    pub alert: String,
    /// How long after the start of the outage.
    pub after: Duration,
    /// When it was resolved; `None` if it still fires.
    pub until: Option<Duration>,
    /// Its text when it fired.
    pub message: String,
}

/// The process. It ends with this value.
pub struct Prometheus {
    address: String,
    http: reqwest::Client,
    _process: Child,
}

impl Prometheus {
    pub fn start(folder: &Path, targets: Vec<Target>) -> anyhow::Result<Self> {
        let mut configuration = format!(
            "global: {{scrape_interval: {INTERVAL}, evaluation_interval: {INTERVAL}}}\nscrape_configs:\n- job_name: pods\n  \
             metrics_path: /prometheus\n  static_configs:\n"
        );
        let mut namespaces = BTreeSet::new();
        for Target {
            namespace,
            pod,
            port,
        } in targets
        {
            writeln!(
                configuration,
                "  - {{targets: [\"127.0.0.1:{port}\"], labels: {{namespace: {namespace}, pod: {pod}, container: probation-offender-events}}}}"
            )?;
            namespaces.insert(namespace);
        }
        configuration.push_str("rule_files:\n");
        for namespace in namespaces {
            let rules = format!("{namespace}.yml");
            // As the chart does.
            fs::write(
                folder.join(&rules),
                ALERTS.replace("offender-events-dev", &namespace),
            )?;
            writeln!(configuration, "- {rules}")?;
        }
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration)?;
        let port = free_port()?;
        let log = fs::File::create(folder.join("prometheus.log"))?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("prometheus cannot be started")?;
        Ok(Self {
            address: format!("http://127.0.0.1:{port}"),
            http: reqwest::Client::builder().no_proxy().build()?,
            _process: process,
        })
    }

    /// Records which alerts fire now, by namespace.
    pub async fn update(&self, firings: &mut BTreeMap<String, Vec<Firing>>, outage: Instant) {
        // Asked again in a few seconds.
        let Ok(alerts) = self.alerts().await else {
            return;
        };
        let now = outage.elapsed();
        let text = |alert: &Value, path: &str| {
            let text = alert.pointer(path).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let firing_now: Vec<_> = alerts
            .iter()
            .filter(|alert| text(alert, "/state") == "firing")
            .collect();
        for alert in &firing_now {
            let name = text(alert, "/labels/alertname");
            let name = name.trim_start_matches("ProbationOffenderEvent");
            let namespace = text(alert, "/labels/namespace");
            let of_it = firings.entry(namespace.clone()).or_default();
            if of_it.iter().any(|firing| firing.alert == name) {
                continue;
            }
            let message = text(alert, "/annotations/message");
            super::note(&format!(
                "{:>5} s  {namespace}: {name}: {message}",
                now.as_secs()
            ));
            of_it.push(Firing {
                alert: name.to_owned(),
                after: now,
                until: None,
                message,
            });
        }
        for (namespace, of_it) in firings {
            for firing in of_it {
                let is_on = firing_now.iter().any(|alert| {
                    text(alert, "/labels/namespace") == *namespace
                        && text(alert, "/labels/alertname").ends_with(&firing.alert)
                });
                firing.until = if is_on {
                    None
                } else {
                    firing.until.or(Some(now))
                };
            }
        }
    }

    async fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let address = format!("{}/api/v1/alerts", self.address);
        let answer: Value = self.http.get(address).send().await?.json().await?;
        let alerts = answer.pointer("/data/alerts").and_then(Value::as_array);
        Ok(alerts.context("no alerts in the answer")?.clone())
    }
}

/// A port that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
