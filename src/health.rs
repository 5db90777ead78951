//! Health in the shape of Spring Boot's actuator: what the pod's probes and the team's dashboards read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::config::HEALTH_TIMEOUT;
use crate::episode::Episode;
use crate::heartbeat::Heartbeat;
use crate::http::{self, HttpClient};
use crate::metrics::Metrics;
use crate::outcome::{Dependency, Label};
use crate::ports::{CallError, within};
use crate::single_flight::Flight;
use crate::topic::SnsTopic;

/// How long a report is reused.
const CACHED_FOR: Duration = Duration::from_secs(2);
/// How often the service checks, so that metrics and log have a result even if no one requests health.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// One failed check is not worth a log line. A dependency that is down for this long is.
const WORTH_A_LINE: Duration = Duration::from_mins(1);
const DEPENDENCIES: [(Dependency, &str); 3] = [
    (Dependency::Auth, "OAuthApiHealth"),
    (Dependency::CommunityApi, "communityApiHealth"),
    (Dependency::Sns, "probationevents-health"),
];

#[derive(Clone, Debug)]
pub struct Checks {
    pub http: HttpClient,
    pub auth_url: String,
    pub community_url: String,
    pub topic: Arc<SnsTopic>,
    /// The time limit of one check.
    pub timeout: Duration,
    pub version: String,
    /// Provides the last claim, shown beside community-api's ping, and receives what the checks find.
    pub metrics: Arc<Metrics>,
    /// The heartbeat that liveness checks. Without one (polling is switched off) the service always counts as alive.
    pub heartbeat: Option<Heartbeat>,
    pub stopping: CancellationToken,
}

#[derive(Debug)]
pub struct Health {
    checks: Checks,
    last: Mutex<Option<Flight<Report>>>,
}

/// From the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    Up,
    /// The service is stopping.
    OutOfService,
    Down,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Component {
    pub status: Status,
    /// What is shown besides the status, with sorted keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<&'static str, Value>,
}

/// The fields are in the order in which Spring writes them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Report {
    /// The worst status of any component.
    pub status: Status,
    pub components: BTreeMap<&'static str, Component>,
    /// The health groups. Each is one of the pod's probes.
    pub groups: [&'static str; 2],
}

impl Component {
    fn of(status: Status, details: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self {
            status,
            details: details.into_iter().collect(),
        }
    }

    fn bare(status: Status) -> Self {
        Self::of(status, [])
    }
}

impl Health {
    pub fn new(checks: Checks) -> Self {
        Self {
            checks,
            last: Mutex::new(None),
        }
    }

    /// Health of everything. `None` if the check panicked. Concurrent callers share one check, which goes on if they
    /// stop waiting.
    pub async fn report(&self) -> Option<Report> {
        let report = {
            let mut last = self.last.lock();
            match &*last {
                Some(check) if is_recent(check) => check.result(),
                _ => {
                    let checks = self.checks.clone();
                    let check = Flight::start(async move { checks.check().await });
                    last.insert(check).result()
                }
            }
        };
        report.await
    }

    /// Checks at intervals, so that metrics and log show what is down even if no one requests health. Never returns.
    pub async fn watch(&self) {
        let mut episodes: [Episode; DEPENDENCIES.len()] = Default::default();
        loop {
            sleep(CHECK_INTERVAL).await;
            let Some(report) = self.report().await else {
                // If the check panicked, every dependency counts as down.
                for (dependency, _) in DEPENDENCIES {
                    self.checks.metrics.dependency_up.of(dependency).set(0);
                }
                continue;
            };
            for ((dependency, name), episode) in DEPENDENCIES.iter().zip(&mut episodes) {
                log(*dependency, &report.components[name], episode);
            }
        }
    }

    /// Health of one component. `None` if no component has this name.
    pub async fn component(&self, name: &str) -> Option<Component> {
        match name {
            "ping" => Some(Component::bare(Status::Up)),
            "liveness" | "livenessState" => Some(self.checks.liveness()),
            "readiness" | "readinessState" => Some(self.checks.readiness()),
            _ => self.report().await?.components.remove(name),
        }
    }
}

fn log(dependency: Dependency, component: &Component, episode: &mut Episode) {
    let now = Instant::now();
    let dependency = dependency.name();
    if component.status == Status::Up {
        if let Some(lasted) = episode.succeeded(Duration::ZERO, now) {
            let down_for_seconds = lasted.as_secs();
            tracing::info!(
                dependency,
                down_for_seconds,
                "the health check of a dependency succeeds again"
            );
        }
    } else if let Some(lasted) = episode.failed(WORTH_A_LINE, now) {
        let cause = component.details.get("error").and_then(Value::as_str);
        let down_for_seconds = lasted.as_secs();
        tracing::warn!(
            dependency,
            cause,
            down_for_seconds,
            "the health check of a dependency fails: the service keeps calling the dependency, and checks it again \
             every 30 s. Check the dependency"
        );
    }
}

/// Whether a check is recent enough to be reused.
fn is_recent(check: &Flight<Report>) -> bool {
    check.is_under_way() || check.started.elapsed() < CACHED_FOR
}

impl Checks {
    /// Whether the poll loop makes progress. Dependencies do not matter.
    fn liveness(&self) -> Component {
        let alive = self.heartbeat.as_ref().is_none_or(Heartbeat::is_alive);
        Component::bare(if alive { Status::Up } else { Status::Down })
    }

    fn readiness(&self) -> Component {
        Component::bare(if self.stopping.is_cancelled() {
            Status::OutOfService
        } else {
            Status::Up
        })
    }

    async fn check(&self) -> Report {
        let (auth, mut community, topic) = tokio::join!(
            self.ping(&self.auth_url),
            self.ping(&self.community_url),
            self.topic()
        );
        if let Some((outcome, at)) = *self.metrics.last_claim.lock() {
            let details = &mut community.details;
            details.insert("lastClaim", json!(outcome.name()));
            details.insert("lastClaimSecondsAgo", json!(at.elapsed().as_secs()));
        }
        let components = BTreeMap::from([
            ("OAuthApiHealth", auth),
            ("communityApiHealth", community),
            (
                "healthInfo",
                Component::of(Status::Up, [("version", json!(self.version))]),
            ),
            ("livenessState", self.liveness()),
            ("ping", Component::bare(Status::Up)),
            ("probationevents-health", topic),
            ("readinessState", self.readiness()),
        ]);
        for (dependency, name) in DEPENDENCIES {
            let is_up = components[name].status == Status::Up;
            self.metrics
                .dependency_up
                .of(dependency)
                .set(i64::from(is_up));
        }
        let status = components
            .values()
            .map(|component| component.status)
            .max()
            .unwrap_or(Status::Up);
        Report {
            components,
            groups: ["liveness", "readiness"],
            status,
        }
    }

    async fn ping(&self, base_url: &str) -> Component {
        let component = within(self.timeout, HEALTH_TIMEOUT, self.pinged(base_url)).await;
        component
            .unwrap_or_else(|error| Component::of(Status::Down, [("error", json!(error.cause))]))
    }

    async fn pinged(&self, base_url: &str) -> Result<Component, CallError> {
        let ping = self
            .http
            .request(Method::GET, format!("{base_url}/health/ping"));
        let response = self.http.send(ping).await.map_err(http::not_answered)?;
        let status = response.status();
        let name = ("HttpStatus", json!(status_name(status)));
        if status.is_success() {
            return Ok(Component::of(Status::Up, [name]));
        }
        let body = self.http.body(response).await.unwrap_or_default();
        Ok(Component::of(
            Status::Down,
            [
                name,
                ("error", json!(format!("answered {}", status.as_u16()))),
                (
                    "body",
                    json!(http::printable(&String::from_utf8_lossy(&body))),
                ),
            ],
        ))
    }

    async fn topic(&self) -> Component {
        let arn = ("topicArn", json!(self.topic.arn()));
        match within(self.timeout, HEALTH_TIMEOUT, self.topic.attributes()).await {
            Ok(attributes) => {
                let attribute = |name| json!(attributes.get(name).map_or("", String::as_str));
                let confirmed = (
                    "subscriptionsConfirmed",
                    attribute("SubscriptionsConfirmed"),
                );
                let pending = ("subscriptionsPending", attribute("SubscriptionsPending"));
                Component::of(Status::Up, [arn, confirmed, pending])
            }
            Err(error) => Component::of(Status::Down, [arn, ("error", json!(error.cause))]),
        }
    }
}

/// Checks that the service on this machine's `port` is ready. The error says why it is not.
pub async fn is_ready(port: u16) -> anyhow::Result<()> {
    let patience = Duration::from_secs(3);
    let url = format!("http://127.0.0.1:{port}/health/readiness");
    let http = HttpClient::new(patience)?;
    let answer = http.send(http.request(Method::GET, url).timeout(patience));
    let response = answer.await?;
    anyhow::ensure!(
        response.status().is_success(),
        "the service on port {port} is not ready: it answered {}",
        response.status()
    );
    Ok(())
}

/// Spring's name for a status: `OK`, `NOT_FOUND`, `I_AM_A_TEAPOT`.
fn status_name(status: StatusCode) -> String {
    match (status.as_u16(), status.canonical_reason()) {
        // The standard's name is "I'm a teapot".
        (418, _) => "I_AM_A_TEAPOT".to_owned(),
        (code, None) => code.to_string(),
        (_, Some(reason)) => reason.to_uppercase().replace([' ', '-'], "_"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_is_reused_for_two_seconds() {
        let check = Flight::start(ready(Report {
            components: BTreeMap::new(),
            groups: ["liveness", "readiness"],
            status: Status::Up,
        }));
        sleep(Duration::from_millis(1999)).await;
        assert!(!check.is_under_way() && is_recent(&check));
        sleep(Duration::from_millis(1)).await;
        assert!(!is_recent(&check));
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_check() {
        let check = Flight::start(pending());
        sleep(Duration::from_mins(1)).await;
        assert!(is_recent(&check));
    }

    #[test]
    fn statuses_have_the_names_that_spring_gives_them() {
        for (status, name) in [
            (200, "OK"),
            (404, "NOT_FOUND"),
            (418, "I_AM_A_TEAPOT"),
            (500, "INTERNAL_SERVER_ERROR"),
            (503, "SERVICE_UNAVAILABLE"),
            (203, "NON_AUTHORITATIVE_INFORMATION"),
            (599, "599"),
        ] {
            assert_eq!(status_name(StatusCode::from_u16(status).unwrap()), name);
        }
    }
}
