//! Settings. The environment overrides a profile's defaults, and these override the table's. They are checked together,
//! so that the service lists every error at one start.

mod draft;
mod kind;
mod listing;
mod reader;
#[cfg(test)]
pub(crate) mod tests;
mod variables;

use std::time::Duration;

use secrecy::SecretString;

use crate::event::mappings::EventOption;

pub use self::listing::listing;
pub use self::variables::{VARIABLES, Variable};

pub(crate) use self::kind::sdk_address;
use self::reader::Layers;
pub(crate) use self::variables::{CALL_TIMEOUT, CLAIM_TIMEOUT, HEALTH_TIMEOUT, PUBLISH_TIMEOUT};

/// The settings of the service, complete and checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Base address of community-api, without a slash at its end.
    pub community_url: String,
    /// Base address of hmpps-auth, without a slash at its end.
    pub auth_url: String,
    /// The OAuth2 client.
    pub client_id: String,
    /// The secret that the client gets tokens with.
    pub client_secret: SecretString,
    /// Where events go.
    pub topic: TopicSettings,
    /// Where telemetry goes. `None` switches it off.
    pub insights: Option<InsightsSettings>,
    /// Port for everything, or for everything except the metrics.
    pub server_port: u16,
    /// A second port, if the main port must not have the metrics. It has them and everything else.
    pub management_port: Option<u16>,
    /// Whether to poll.
    pub poll_enabled: bool,
    /// The poller's own settings.
    pub poller: PollerSettings,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time of one health check.
    pub health_timeout: Duration,
    /// Whether to serve the OpenAPI description and Swagger UI.
    pub api_docs: bool,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Whether text on a terminal may have colours.
    pub log_colours: bool,
    /// Levels of the service's own log, in the syntax of `RUST_LOG`.
    pub log_levels: String,
    /// Version to show.
    pub build_number: String,
    /// Product id to show.
    pub product_id: String,
    /// Warnings about settings that work but are probably not meant. The service logs them when it starts.
    pub warnings: Vec<String>,
}

/// The settings of the poller.
#[derive(Clone, Debug, Default)]
pub struct PollerSettings {
    /// The time from the end of a drain to the next poll.
    pub fixed_delay: Duration,
    /// How many rows may be worked on at once while they go well.
    pub max_in_flight: usize,
    /// From this number of held rows on, the poller claims only a few more.
    pub held_limit: usize,
    /// The time after which community-api serves a locked row again.
    pub lock_expiry: Duration,
    /// The longest that a call to community-api other than a claim, or a token request, may take.
    pub call_timeout: Duration,
    /// The longest that a publish may take; twice that after one without an answer.
    pub publish_timeout: Duration,
    /// The longest that a claim may take. One without an answer may have locked a row.
    pub claim_timeout: Duration,
    /// How many rows may be marked as permanently failed within [`Self::brake_window`].
    pub brake_limit: usize,
    /// The window of [`Self::brake_limit`].
    pub brake_window: Duration,
    /// Options that add event types.
    pub event_options: Vec<EventOption>,
    /// How long the held rows may take to be settled at shutdown.
    pub grace_period: Duration,
}

/// The topic, and the credentials for it.
#[derive(Clone, Debug, Default)]
pub struct TopicSettings {
    /// The ARN of the topic.
    pub arn: String,
    /// Its region.
    pub region: String,
    /// Address of SNS, if it is not AWS's own.
    pub endpoint: Option<String>,
    /// Address of STS, if it is not AWS's own.
    pub sts_endpoint: Option<String>,
    /// Whether it is LocalStack, which has no identities.
    pub is_localstack: bool,
    /// Key id and secret; without them the SDK looks for credentials itself.
    pub keys: Option<(String, SecretString)>,
    /// Whether messages carry the operation's `traceparent`.
    pub traceparent: bool,
}

/// Application Insights.
#[derive(Clone, Debug)]
pub struct InsightsSettings {
    /// Identifies the resource. Anyone who knows it can write to the resource.
    pub instrumentation_key: SecretString,
    /// Base address of the ingestion endpoint, without a slash at its end.
    pub endpoint: String,
    /// The name of this instance: the pod.
    pub instance: Option<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people to read.
    Text,
    /// Text on a terminal, otherwise JSON.
    #[default]
    Auto,
}

/// All that is wrong with the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the configuration is wrong. Errors: {}\n  - {}\nCorrect these environment variables and start again. The `config` \
     command lists every variable and where its value comes from",
    .0.len(), .0.join("\n  - ")
)]
pub struct Faults(Vec<String>);

impl Settings {
    /// Reads the settings from defaults and environment.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_environment() -> Result<Self, Faults> {
        Self::from_variables(environment)
    }

    /// Reads the settings from defaults and what `look_up` returns for each variable.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_variables(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        reader::settings(Layers::new(look_up)?)
    }
}

/// Looks up an environment variable. What is not UTF-8 in it becomes U+FFFD, which no setting may have.
pub fn environment(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    Some(value.to_string_lossy().into_owned())
}
