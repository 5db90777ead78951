//! The only place where the rooms are joined: settings become clients, poller and web servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sns::config::Credentials;
use aws_sdk_sns::config::retry::RetryConfig;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::check::Environment;
use crate::community_api::CommunityApi;
use crate::config::{Settings, TopicSettings, sdk_address};
use crate::health::{Checks, Health};
use crate::heartbeat::Heartbeat;
use crate::http::HttpClient;
use crate::http::sdk::SdkHttp;
use crate::insights::export::{self, Exporting};
use crate::metrics::Metrics;
use crate::poller::Poller;
use crate::token::TokenSource;
use crate::topic::SnsTopic;
use crate::web::server::{self, Limits};
use crate::web::{self, Pages};

/// A stop waits for Application Insights for the rest of the grace period, but at least and at most this long.
const SHORTEST_FLUSH: Duration = Duration::from_secs(1);
const LONGEST_FLUSH: Duration = Duration::from_secs(5);

/// The whole service, bound to its ports and not yet running.
#[derive(Debug)]
pub struct Application {
    server: TcpListener,
    management: Option<TcpListener>,
    pages: Pages,
    poller: Option<Poller<CommunityApi, Arc<SnsTopic>>>,
    exporting: Option<Exporting>,
    grace_period: Duration,
    stop: CancellationToken,
}

impl Application {
    /// Builds the service, with metrics that the caller may update as well. Nothing that it depends on has to be up.
    pub async fn build(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let clients = Clients::new(&settings, metrics).await?;
        let version = settings.build_number.as_str();
        clients
            .metrics
            .build_info
            .with_label_values(&[version])
            .set(1);
        let telemetry = settings.insights.as_ref().map(|insights| {
            let dropped = clients.metrics.telemetry_dropped.clone();
            export::start(insights, &settings.build_number, dropped)
        });
        let (insights, exporting) = telemetry.transpose()?.unzip();
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let stop = CancellationToken::new();
        let poller = settings.poll_enabled.then(|| {
            Poller::new(
                clients.updates(&settings),
                clients.topic.clone(),
                settings.poller.clone(),
                clients.metrics.clone(),
            )
            .reporting_to(insights.unwrap_or_default())
        });
        let heartbeat = poller.as_ref().map(Poller::heartbeat);
        let health = clients.health(&settings, heartbeat, stop.clone());
        let info = Arc::new(info(&settings));
        say_settings(&settings, clients.aws_address.as_deref());
        Ok(Self {
            server: listen(settings.server_port, "SERVER_PORT")?,
            management: match settings.management_port {
                Some(port) => Some(listen(port, "MANAGEMENT_SERVER_PORT")?),
                None => None,
            },
            pages: Pages {
                health: Arc::new(health),
                metrics: clients.metrics,
                info,
                api_docs: settings.api_docs,
            },
            poller,
            exporting,
            grace_period: settings.poller.grace_period,
            stop,
        })
    }

    /// The address of the main port, which the system chose if the port is 0.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.server.local_addr()
    }

    /// The address of `/prometheus` and everything else: the management port, or else the main one.
    pub fn management_address(&self) -> std::io::Result<SocketAddr> {
        self.management
            .as_ref()
            .unwrap_or(&self.server)
            .local_addr()
    }

    /// Runs until `stop`. Then it claims no more rows, settles the held ones within the grace period, and answers
    /// health checks until that is done.
    ///
    /// # Errors
    /// If the poll loop or a web server ended by itself. The pod has to be replaced.
    pub async fn run_until_stopped(self, stop: CancellationToken) -> anyhow::Result<()> {
        let version = self.pages.info["build"]["version"].as_str();
        tracing::info!(version, address = %self.address()?, "started");
        let ended = self.run(stop).await;
        match &ended {
            Ok(()) => tracing::info!("stopped"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "stopped because of an error: Kubernetes restarts the pod. Report the error if it repeats"
            ),
        }
        ended
    }

    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let settled = CancellationToken::new();
        let mut servers = tokio::task::JoinSet::new();
        let health = self.pages.health.clone();
        let routers = match self.management {
            Some(management) => {
                let (on_main, on_management) = web::on_two_ports(self.pages);
                vec![(self.server, on_main), (management, on_management)]
            }
            None => vec![(self.server, web::on_one_port(self.pages))],
        };
        for (listener, router) in routers {
            let limits = Limits::within_descriptor_limit();
            servers.spawn(server::serve(listener, router, limits, settled.clone()));
        }
        let stopping = self.stop.clone();
        let watching = tokio::spawn(async move { health.watch().await });
        let mut polling = tokio::spawn(async move {
            if let Some(poller) = &self.poller {
                poller.run(&self.stop).await;
            } else {
                tracing::warn!(
                    "polling is switched off (OFFENDERUPDATEPOLL_ENABLED): rows wait in Delius until it is switched on"
                );
                self.stop.cancelled().await;
            }
        });
        let fault = tokio::select! {
            () = stop.cancelled() => None,
            ended = &mut polling => Some(ended.context("the poll loop panicked").and(Err(anyhow::anyhow!("the poll loop ended")))),
            Some(ended) = servers.join_next() => Some(Err(anyhow::anyhow!("a web server ended: {ended:?}"))),
        };
        stopping.cancel();
        watching.abort();
        let stopped_at = Instant::now();
        if !polling.is_finished() {
            polling.await.context("the poll loop panicked")?;
        }
        if let Some(exporting) = self.exporting {
            let left = self.grace_period.saturating_sub(stopped_at.elapsed());
            exporting
                .flush(left.clamp(SHORTEST_FLUSH, LONGEST_FLUSH))
                .await;
        }
        settled.cancel();
        // Time for answers that are under way. Idle connections are closed.
        let _ = timeout(Duration::from_secs(1), async {
            while servers.join_next().await.is_some() {}
        })
        .await;
        fault.unwrap_or(Ok(()))
    }
}

/// One line with the settings that an operator asks for first. Nothing in it is secret.
fn say_settings(settings: &Settings, aws_address: Option<&str>) {
    let poller = &settings.poller;
    tracing::info!(
        version = settings.build_number,
        communityApi = settings.community_url,
        auth = settings.auth_url,
        topic = settings.topic.arn,
        topicAddress = settings.topic.endpoint,
        stsAddress = settings.topic.sts_endpoint,
        awsAddress = aws_address,
        topicKeys = if settings.topic.keys.is_some() { "given" } else { "from the SDK's default chain" },
        applicationInsights = settings
            .insights
            .as_ref()
            .map_or("off: APPLICATIONINSIGHTS_CONNECTION_STRING is not set", |insights| &insights.endpoint),
        polls = settings.poll_enabled,
        fixedDelay = ?poller.fixed_delay,
        maxInFlight = poller.max_in_flight,
        lockExpiry = ?poller.lock_expiry,
        maxPermanentFailures = poller.brake_limit,
        gracePeriod = ?poller.grace_period,
        "settings"
    );
}

/// What `check` checks, with the clients that the service itself would use.
pub async fn environment(settings: Settings) -> anyhow::Result<Environment> {
    let clients = Clients::new(&settings, Arc::new(Metrics::new()?)).await?;
    let updates = clients.updates(&settings);
    let health = clients.health(&settings, None, CancellationToken::new());
    Ok(Environment {
        settings,
        health,
        updates,
        tokens: clients.tokens,
        sts: clients.sts,
    })
}

struct Clients {
    metrics: Arc<Metrics>,
    http: HttpClient,
    tokens: TokenSource,
    topic: Arc<SnsTopic>,
    sts: Option<aws_sdk_sts::Client>,
    /// Where the SDK sends calls of a service that has no separate address: from the environment or AWS's config file.
    aws_address: Option<String>,
}

impl Clients {
    async fn new(settings: &Settings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let http =
            HttpClient::new(settings.connect_timeout).context("cannot set up the HTTP client")?;
        let aws = aws(settings, http.clone()).await;
        // The service's own settings are checked already.
        anyhow::ensure!(
            aws.endpoint_url()
                .is_none_or(|address| sdk_address(address).is_some()),
            "endpoint_url in AWS's config file must be a full http(s) address, such as http://localhost:4566"
        );
        let aws_address = aws.endpoint_url().map(str::to_owned);
        let sns = aws_sdk_sns::config::Builder::from(&aws);
        let sns = match &settings.topic.endpoint {
            Some(endpoint) => sns.endpoint_url(endpoint),
            None => sns,
        };
        Ok(Self {
            tokens: TokenSource::new(
                http.clone(),
                &settings.auth_url,
                settings.client_id.clone(),
                settings.client_secret.clone(),
                settings.poller.call_timeout,
                metrics.clone(),
            ),
            topic: Arc::new(
                SnsTopic::new(
                    sns,
                    settings.topic.arn.clone(),
                    settings.poller.publish_timeout,
                    metrics.clone(),
                )
                .with_traceparent(settings.topic.traceparent),
            ),
            sts: (!settings.topic.is_localstack).then(|| sts(settings, &aws)),
            aws_address,
            http,
            metrics,
        })
    }

    fn updates(&self, settings: &Settings) -> CommunityApi {
        CommunityApi::new(
            self.http.clone(),
            settings.community_url.clone(),
            self.tokens.clone(),
            self.metrics.clone(),
        )
    }

    fn health(
        &self,
        settings: &Settings,
        heartbeat: Option<Heartbeat>,
        stopping: CancellationToken,
    ) -> Health {
        Health::new(Checks {
            http: self.http.clone(),
            auth_url: settings.auth_url.clone(),
            community_url: settings.community_url.clone(),
            topic: self.topic.clone(),
            timeout: settings.health_timeout,
            version: settings.build_number.clone(),
            metrics: self.metrics.clone(),
            heartbeat,
            stopping,
        })
    }
}

fn listen(port: u16, variable: &str) -> anyhow::Result<TcpListener> {
    server::listen(port).with_context(|| format!("cannot listen on {variable} {port}"))
}

/// AWS clients make each call once. The SDK does not repeat failed entries of a batch and knows nothing of leases,
/// so retries and time limits are the poller's.
async fn aws(settings: &Settings, http: HttpClient) -> SdkConfig {
    let TopicSettings { region, keys, .. } = settings.topic.clone();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(SdkHttp::new(http))
        .region(Region::new(region))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        // It would end each call after 5 s without a byte.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some((id, secret)) = keys {
        loader = loader.credentials_provider(Credentials::new(
            id,
            secret.expose_secret(),
            None,
            None,
            "environment",
        ));
    }
    loader.load().await
}

fn sts(settings: &Settings, aws: &SdkConfig) -> aws_sdk_sts::Client {
    let sts = aws_sdk_sts::config::Builder::from(aws);
    let sts = match &settings.topic.sts_endpoint {
        Some(endpoint) => sts.endpoint_url(endpoint),
        None => sts,
    };
    aws_sdk_sts::Client::from_conf(sts.build())
}

/// The content of `/info`. The build time is when this binary was written to disk.
fn info(settings: &Settings) -> Value {
    let name = env!("CARGO_PKG_NAME");
    let built = std::env::current_exe()
        .and_then(std::fs::metadata)
        .and_then(|file| file.modified());
    let built = built
        .ok()
        .and_then(|time| jiff::Timestamp::try_from(time).ok());
    let mut git = serde_json::Map::new();
    if let Some(branch) = build_variable("GIT_BRANCH") {
        git.insert("branch".to_owned(), json!(branch));
    }
    if let Some(commit) = build_variable("GIT_REF") {
        git.insert("commit".to_owned(), json!({ "id": commit }));
    }
    json!({
        "git": git,
        "build": {
            "name": name,
            "artifact": name,
            "group": "uk.gov.justice.digital.hmpps",
            "version": settings.build_number,
            "time": built.map(|time| time.to_string()),
        },
        "productId": settings.product_id,
    })
}

/// What the build of the image set, if it did.
fn build_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
