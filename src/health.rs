//! Health in the shape of Spring Boot's actuator: what the pod's probes and the team's dashboards read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::config::HEALTH_TIMEOUT;
use crate::episode::Episode;
use crate::heartbeat::Heartbeat;
use crate::http::{self, HttpClient};
use crate::metrics::Metrics;
use crate::outcome::{Dependency, Label};
use crate::ports::CallError;
use crate::single_flight::Flight;
use crate::topic::SnsTopic;

/// How long a report is reused.
const CACHED_FOR: Duration = Duration::from_secs(2);
/// How often the service checks, so that metrics and log have a result even if no one requests health.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// One failed check is not worth a line. A dependency that is down for this long is.
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
    /// What liveness follows. Without it (polling is switched off) the service is always alive.
    pub heartbeat: Option<Heartbeat>,
    pub stopping: CancellationToken,
}

#[derive(Debug)]
pub struct Health {
    checks: Checks,
    last: Mutex<Option<Flight<Report>>>,
}

/// The order is that of severity.
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
    /// The probes, which are also groups.
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
    #[must_use]
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
                Some(check) if is_good(check) => check.result(),
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
                // A check that panicked has found nothing up.
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
            "the health check of a dependency fails: the service keeps calling it, and checks it again every 30 s"
        );
    }
}

/// Whether a check is recent enough to be reused.
fn is_good(check: &Flight<Report>) -> bool {
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
        if let Some((outcome, ago)) = self.metrics.last_claim.get() {
            let details = &mut community.details;
            details.insert("lastClaim", json!(outcome.name()));
            details.insert("lastClaimSecondsAgo", json!(ago.as_secs()));
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
        let down = |error: String| Component::of(Status::Down, [("error", json!(error))]);
        let component = self.in_time(self.pinged(base_url)).await;
        component.unwrap_or_else(down)
    }

    async fn in_time<R>(
        &self,
        check: impl Future<Output = Result<R, String>>,
    ) -> Result<R, String> {
        let answer = timeout(self.timeout, check).await;
        answer.unwrap_or_else(|_| {
            Err(CallError::no_answer_within(self.timeout, HEALTH_TIMEOUT).cause)
        })
    }

    async fn pinged(&self, base_url: &str) -> Result<Component, String> {
        let ping = self
            .http
            .request(Method::GET, format!("{base_url}/health/ping"));
        let response = self.http.send(ping).await;
        let response = response.map_err(|error| http::cause_of(&error))?;
        let status = response.status();
        let name = ("HttpStatus", json!(status_name(status.as_u16())));
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
        match self.in_time(self.topic.attributes()).await {
            Ok(attributes) => Component::of(
                Status::Up,
                [
                    arn,
                    (
                        "subscriptionsConfirmed",
                        json!(attributes.subscriptions_confirmed),
                    ),
                    (
                        "subscriptionsPending",
                        json!(attributes.subscriptions_pending),
                    ),
                ],
            ),
            Err(error) => Component::of(Status::Down, [arn, ("error", json!(error))]),
        }
    }
}

/// Asks the service on this port of this machine whether it is ready. An error says why it is not.
pub async fn is_ready(port: u16) -> anyhow::Result<()> {
    let patience = Duration::from_secs(3);
    let url = format!("http://127.0.0.1:{port}/health/readiness");
    let http = HttpClient::new(patience)?;
    let answer = http.send(http.request(Method::GET, url).timeout(patience));
    let response = answer.await?;
    anyhow::ensure!(
        response.status().is_success(),
        "answered {}",
        response.status()
    );
    Ok(())
}

/// A status by Spring's name for it: `OK`, `NOT_FOUND`, `I_AM_A_TEAPOT`.
fn status_name(status: u16) -> String {
    let reason = match status {
        // Spring's name differs from the standard's.
        418 => Some("I am a teapot"),
        _ => reqwest::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason()),
    };
    reason.map_or_else(
        || status.to_string(),
        |reason| {
            reason
                .to_uppercase()
                .replace([' ', '-'], "_")
                .replace('\'', "")
        },
    )
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
        assert!(!check.is_under_way() && is_good(&check));
        sleep(Duration::from_millis(1)).await;
        assert!(!is_good(&check));
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_check() {
        let check = Flight::start(pending());
        sleep(Duration::from_mins(1)).await;
        assert!(is_good(&check));
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
            assert_eq!(status_name(status), name);
        }
    }
}
