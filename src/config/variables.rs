//! The one table of environment variables, and their defaults.

use config::{Config, ConfigError, File, FileFormat};

/// One environment variable that the service reads.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it wants, in the words of an error message: "SERVER_PORT wants …".
    pub wants: &'static str,
    /// What it is for, for the README.
    pub purpose: &'static str,
    /// Whether its value must never be printed.
    pub secret: bool,
}

impl Variable {
    /// The variable as a line of the README's table.
    #[must_use]
    pub fn readme_row(&self) -> String {
        let default = default_of(self.name).map_or_else(String::new, |value| format!("`{value}`"));
        format!(
            "| {} | {default} | {} | {} |\n",
            self.name, self.wants, self.purpose
        )
    }
}

const fn variable(name: &'static str, wants: &'static str, purpose: &'static str) -> Variable {
    Variable {
        name,
        wants,
        purpose,
        secret: false,
    }
}

const fn secret(name: &'static str, wants: &'static str, purpose: &'static str) -> Variable {
    Variable {
        name,
        wants,
        purpose,
        secret: true,
    }
}

/// Every environment variable that the service reads, in the order of the README; any other is ignored.
pub const VARIABLES: &[Variable] = &[
    variable(
        "COMMUNITY_ENDPOINT_URL",
        "an http(s) address",
        "Base address of community-api",
    ),
    variable(
        "OAUTH_ENDPOINT_URL",
        "an http(s) address",
        "Base address of hmpps-auth, with its `/auth`",
    ),
    secret(
        "OAUTH_CLIENT_ID",
        "a client id",
        "Client that holds ROLE_COMMUNITY_EVENTS and ROLE_COMMUNITY",
    ),
    secret("OAUTH_CLIENT_SECRET", "a client secret", "Its secret"),
    variable(
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
        "the ARN of a standard SNS topic, arn:aws:sns:… (FIFO topics are not supported)",
        "Topic that events are published to",
    ),
    secret(
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID",
        "an access key id, together with …_SECRET_ACCESS_KEY",
        "Credentials for the topic; without them the SDK's default chain (IRSA in the cluster)",
    ),
    secret(
        "HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY",
        "a secret access key, together with …_ACCESS_KEY_ID",
        "As above",
    ),
    variable(
        "HMPPS_SQS_REGION",
        "the AWS region that the topic's ARN names",
        "Region of the topic",
    ),
    variable(
        "HMPPS_SQS_PROVIDER",
        "aws or localstack",
        "`localstack`: its address, keys and topic",
    ),
    variable(
        "HMPPS_SQS_LOCALSTACKURL",
        "an http(s) address",
        "Address of LocalStack",
    ),
    variable(
        "AWS_ENDPOINT_URL_SNS",
        "an http(s) address",
        "Address of SNS instead of AWS' own, for proxies and stand-ins",
    ),
    variable(
        "AWS_ENDPOINT_URL",
        "an http(s) address",
        "As above, for all of AWS",
    ),
    variable(
        "SERVER_PORT",
        "a port, 0 to 65535",
        "Port of health, info, metrics; 0 takes a free one",
    ),
    variable(
        "MANAGEMENT_SERVER_PORT",
        "a port, 0 to 65535",
        "Port that `/prometheus` moves to; everything else is on both ports",
    ),
    variable(
        "OFFENDERUPDATEPOLL_ENABLED",
        "true or false",
        "Whether to poll at all",
    ),
    variable(
        "OFFENDERUPDATEPOLL_FIXEDDELAY_MS",
        "whole milliseconds, 1 to 86400000",
        "From the end of a drain to the next poll",
    ),
    variable(
        "OFFENDERUPDATEPOLL_CLAIMERS",
        "nothing",
        "Ignored: one claimer per pod is as fast as community-api",
    ),
    variable(
        "OFFENDERUPDATEPOLL_MAXINFLIGHT",
        "a whole number, 1 to 10000",
        "Rows worked on at once while they go well. Below 4, each offender whose calls hang may delay the others by API_CALLTIMEOUT",
    ),
    variable(
        "OFFENDERUPDATEPOLL_LOCKEXPIRY",
        "a duration such as 10m, at least three times the longer of API_CALLTIMEOUT and HMPPS_SQS_CALLTIMEOUT",
        "After which community-api serves a locked row again",
    ),
    variable(
        "OFFENDERUPDATEPOLL_MAXPERMANENTFAILURES",
        "a whole number, 0 to 1000000",
        "Rows that a pod may mark as permanently failed within the window",
    ),
    variable(
        "OFFENDERUPDATEPOLL_PERMANENTFAILURESWINDOW",
        "a duration such as 10m",
        "That window",
    ),
    variable(
        "OFFENDERUPDATEPOLL_CONTACTDELETED",
        "true or false",
        "Whether a deleted contact raises CONTACT_DELETED instead of CONTACT_CHANGED",
    ),
    variable(
        "HMPPS_SQS_CALLTIMEOUT",
        "a duration such as 5s",
        "Longest time of a publish; twice as long after one without an answer",
    ),
    variable(
        "HMPPS_SQS_TRACEPARENT",
        "true or false",
        "Whether messages carry the attribute `traceparent`, by which a subscriber's telemetry joins the row's operation. None does without Application Insights",
    ),
    variable(
        "API_CONNECTTIMEOUT",
        "a duration such as 2s",
        "Longest time to connect",
    ),
    variable(
        "API_CALLTIMEOUT",
        "a duration such as 10s",
        "Longest time of a call",
    ),
    variable(
        "API_CLAIMTIMEOUT",
        "a duration such as 30s",
        "Longest time of a claim; giving up on one strands its row",
    ),
    variable(
        "API_HEALTHTIMEOUT",
        "a duration such as 2s",
        "Longest time of one check in `/health`",
    ),
    variable(
        "SHUTDOWN_GRACEPERIOD",
        "a duration such as 25s",
        "Time for claimed rows to be settled after SIGTERM",
    ),
    variable(
        "SPRINGDOC_APIDOCS_ENABLED",
        "true or false",
        "Whether to serve `/v3/api-docs` and `/swagger-ui.html`",
    ),
    variable(
        "LOG_FORMAT",
        "json, text or auto",
        "`auto`: text on a terminal, otherwise JSON",
    ),
    variable("NO_COLOR", "any value", "Text without colours"),
    variable(
        "TERM",
        "the name of a terminal",
        "`dumb`: text without colours",
    ),
    variable(
        "RUST_LOG",
        "a level such as info",
        "Level of the service's own log",
    ),
    secret(
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        "InstrumentationKey=… and perhaps ;IngestionEndpoint=https://… or ;EndpointSuffix=…",
        "Application Insights; without it nothing is sent there",
    ),
    variable(
        "HOSTNAME",
        "a name",
        "Instance that Application Insights shows; Kubernetes sets it to the pod's name",
    ),
    variable(
        "BUILD_NUMBER",
        "a version",
        "Version that `/info`, `/health` and Application Insights show",
    ),
    variable("PRODUCT_ID", "an id", "Product id that `/info` shows"),
    variable(
        "SPRING_PROFILES_ACTIVE",
        "names of profiles",
        "`dev` or `localstack` take the defaults for docker-compose's stand-ins; other names are ignored",
    ),
];

/// The default of a variable outside any profile.
fn default_of(name: &str) -> Option<String> {
    defaults().ok()?.get_string(&format!("default.{name}")).ok()
}

/// The defaults of every profile, by section.
pub(super) fn defaults() -> Result<Config, ConfigError> {
    Config::builder()
        .add_source(File::from_str(
            include_str!("defaults.toml"),
            FileFormat::Toml,
        ))
        .build()
}
