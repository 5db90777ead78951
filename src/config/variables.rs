//! The only table of environment variables: name, default, what is allowed, where the value goes, and help. A new
//! setting is a row here, and a field of [`Settings`](super::Settings).

use std::ops::RangeInclusive;
use std::time::Duration;

use self::Unset::{As, Fine, Wrong};
use super::LogFormat;
use super::kind::Kind::{self, Address, Flag, Number, Other, Port, SdkAddress, Text, Time};
use super::kind::{base_address, connection, idle_directives, is_open, is_region, topic_region};
use crate::event::mappings::EventOption;

pub(super) const TOPIC_ARN: &str = "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN";
pub(super) const REGION: &str = "HMPPS_SQS_REGION";
pub(super) const PROVIDER: &str = "HMPPS_SQS_PROVIDER";
/// The settings that limit calls, for use in errors.
pub(crate) const PUBLISH_TIMEOUT: &str = "HMPPS_SQS_CALLTIMEOUT";
pub(crate) const CALL_TIMEOUT: &str = "API_CALLTIMEOUT";
pub(crate) const CLAIM_TIMEOUT: &str = "API_CLAIMTIMEOUT";
pub(crate) const HEALTH_TIMEOUT: &str = "API_HEALTHTIMEOUT";
pub(super) const LOCK_EXPIRY: &str = "OFFENDERUPDATEPOLL_LOCKEXPIRY";

/// The topic that LocalStack is set up with.
pub(super) const LOCALSTACK_TOPIC: &str =
    "arn:aws:sns:eu-west-2:000000000000:probation_offender_events";

const NO_CLAIMERS: &str =
    "OFFENDERUPDATEPOLL_CLAIMERS is ignored: one claimer per pod is as fast as community-api";

/// How many rows a pod holds besides those with a place: rows in trouble, and rows that wait for another row of their
/// offender. Each takes about a kilobyte. With 256, 300 consecutive bad rows of one offender delay the rows behind them
/// by 9 s.
const HELD_BESIDE_PLACES: usize = 256;

/// A call that must connect first seldom takes less than 100 ms. If one took more than 5 minutes, the lock of 10 minutes
/// would have no room for another attempt.
const CALL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(5);
/// As above; and checks are repeated every 30 s.
const CHECK: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
/// A call under way may need 100 ms. After 10 minutes the locks have expired, and other pods may have the rows.
const GRACE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);
/// The real lock is 10 minutes. Tests have shorter ones. With more than an hour, rows that were left would come back
/// too late.
const LOCK: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
/// In less than a second, a pod cannot mark enough rows for the brake to act.
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// One environment variable that the service reads.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    pub(super) unset: Unset,
    pub(super) kind: Kind,
    help: &'static str,
    /// Whether its value must never be printed.
    pub(super) is_secret: bool,
}

/// What it means if a variable is not set.
#[derive(Debug)]
pub(super) enum Unset {
    Wrong,
    Fine,
    /// As if it were set to this.
    As(&'static str),
}

impl Variable {
    /// The variable as a row of the documentation's table: name, default, what it must be, help.
    pub fn table_row(&self) -> String {
        let default = self.default().map(|value| format!("`{value}`"));
        let (default, wants) = (default.unwrap_or_default(), self.kind.wants());
        format!("| {} | {default} | {wants} | {} |\n", self.name, self.help)
    }

    pub(super) fn default(&self) -> Option<&'static str> {
        match self.unset {
            As(default) => Some(default),
            Wrong | Fine => None,
        }
    }
}

const fn variable(name: &'static str, unset: Unset, kind: Kind, help: &'static str) -> Variable {
    Variable {
        name,
        unset,
        kind,
        help,
        is_secret: false,
    }
}

const fn secret(name: &'static str, unset: Unset, kind: Kind, help: &'static str) -> Variable {
    Variable {
        is_secret: true,
        ..variable(name, unset, kind, help)
    }
}

/// Every environment variable that the service reads, in the order of the documentation; any other is ignored.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    variable("COMMUNITY_ENDPOINT_URL", Wrong, Address(|draft, url| draft.to.community_url = url), "Base address of community-api"),
    variable("OAUTH_ENDPOINT_URL", Wrong, Address(|draft, url| draft.to.auth_url = url),
        "Base address of hmpps-auth, with its `/auth`"),
    secret("OAUTH_CLIENT_ID", Wrong, Text("a client id", |draft, id| draft.to.client_id = id),
        "Id of the client, which needs ROLE_COMMUNITY_EVENTS and ROLE_COMMUNITY"),
    secret("OAUTH_CLIENT_SECRET", Wrong, Text("a client secret", |draft, secret| draft.to.client_secret = secret.into()),
        "Secret of that client"),
    variable(TOPIC_ARN, Wrong,
        Other("the ARN of a standard SNS topic, arn:aws:sns:{region}:{12 digits}:{name} (FIFO topics and other partitions are not supported)", |draft, arn| {
            arn.clone_into(&mut draft.to.topic.arn);
            topic_region(arn).is_some()
        }),
        "Topic that events are published to"),
    secret("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID", Fine,
        Text("an access key id, together with …_SECRET_ACCESS_KEY", |draft, id| draft.to.topic.keys.get_or_insert_default().0 = id),
        "Credentials for the topic. Without them, the service uses the SDK's default chain (IRSA in the cluster)"),
    secret("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY", Fine,
        Text("a secret access key, together with …_ACCESS_KEY_ID", |draft, key| draft.to.topic.keys.get_or_insert_default().1 = key.into()),
        "Secret that belongs to that key"),
    variable(REGION, As("eu-west-2"),
        Other("the AWS region that the topic's ARN names", |draft, region| {
            region.clone_into(&mut draft.to.topic.region);
            is_region(region)
        }),
        "Region of the topic"),
    variable(PROVIDER, As("aws"),
        Other("aws or localstack", |draft, provider| {
            draft.to.topic.is_localstack = provider == "localstack";
            matches!(provider, "aws" | "localstack")
        }),
        "`localstack` uses LocalStack's address, keys and topic"),
    variable("HMPPS_SQS_LOCALSTACKURL", As("http://localhost:4566"),
        Other("an http(s) address", |draft, text| base_address(text).map(|url| draft.localstack_url = url).is_some()),
        "Address of LocalStack"),
    variable("AWS_ENDPOINT_URL_SNS", Fine, SdkAddress(|draft, url| draft.to.topic.endpoint = Some(url)),
        "Address of SNS instead of AWS's own, for proxies and stand-ins"),
    variable("AWS_ENDPOINT_URL_STS", Fine, SdkAddress(|draft, url| draft.to.topic.sts_endpoint = Some(url)),
        "Address of STS instead of AWS's own. STS gives credentials for the pod's web identity token (IRSA)"),
    variable("AWS_ENDPOINT_URL", Fine, SdkAddress(|draft, url| draft.aws_url = Some(url)),
        "Address of all AWS services that have no separate address"),
    variable("SERVER_PORT", As("8080"), Port(|draft, port| draft.to.server_port = port),
        "Port of health, info and metrics. 0 chooses a free port"),
    variable("MANAGEMENT_SERVER_PORT", Fine, Port(|draft, port| draft.to.management_port = Some(port)),
        "Port that `/prometheus` moves to. Everything else is on both ports"),
    variable("OFFENDERUPDATEPOLL_ENABLED", As("true"), Flag(|draft, is_on| draft.to.poll_enabled = is_on), "Whether to poll at all"),
    variable("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", As("10000"),
        Number(1..=86_400_000, "milliseconds", |draft, delay| draft.to.poller.fixed_delay = Duration::from_millis(delay as u64)),
        "Time from the end of a drain to the next poll"),
    variable("OFFENDERUPDATEPOLL_CLAIMERS", Fine, Text("unset", |draft, _| draft.warn(NO_CLAIMERS)),
        "Ignored: one claimer per pod is as fast as community-api"),
    variable("OFFENDERUPDATEPOLL_MAXINFLIGHT", As("32"),
        Number(1..=10_000, "rows", |draft, rows| {
            draft.to.poller.max_in_flight = rows;
            draft.to.poller.held_limit = rows + HELD_BESIDE_PLACES;
        }),
        "Maximum number of rows that a pod works on at once, not counting rows in trouble. Below 4, each offender whose calls hang can delay other offenders by API_CALLTIMEOUT"),
    variable(LOCK_EXPIRY, As("10m"), Time(LOCK, |draft, time| draft.to.poller.lock_expiry = time),
        "Time after which community-api serves a locked row again. It must be at least 3 times API_CALLTIMEOUT and HMPPS_SQS_CALLTIMEOUT, and at least API_CLAIMTIMEOUT"),
    variable("OFFENDERUPDATEPOLL_MAXPERMANENTFAILURES", As("10"),
        Number(0..=1_000_000, "rows", |draft, rows| draft.to.poller.brake_limit = rows),
        "Rows that a pod may mark as permanently failed within the window"),
    variable("OFFENDERUPDATEPOLL_PERMANENTFAILURESWINDOW", As("10m"), Time(WINDOW, |draft, time| draft.to.poller.brake_window = time),
        "Length of that window"),
    variable(EventOption::ContactDeleted.setting(), As("false"),
        Flag(|draft, is_on| draft.to.poller.event_options = is_on.then_some(EventOption::ContactDeleted).into_iter().collect()),
        "Whether a deleted contact raises CONTACT_DELETED instead of CONTACT_CHANGED"),
    variable(PUBLISH_TIMEOUT, As("5s"), Time(CALL, |draft, time| draft.to.poller.publish_timeout = time),
        "Longest time of a publish. After a publish without an answer, the row's next attempts may take twice as long"),
    variable("HMPPS_SQS_TRACEPARENT", As("false"), Flag(|draft, is_on| draft.to.topic.traceparent = is_on),
        "Whether messages carry the attribute `traceparent`, by which a subscriber's telemetry joins the row's operation. Without Application Insights, no message has it"),
    variable("API_CONNECTTIMEOUT", As("2s"), Time(CALL, |draft, time| draft.to.connect_timeout = time), "Longest time to connect"),
    variable(CALL_TIMEOUT, As("10s"), Time(CALL, |draft, time| draft.to.poller.call_timeout = time),
        "Longest time of a call to community-api other than a claim, and of a token request"),
    variable(CLAIM_TIMEOUT, As("35s"), Time(CALL, |draft, time| draft.to.poller.claim_timeout = time),
        "Longest time of a claim. A claim that gets no answer may have locked a row, which comes back when the lock expires. community-api itself answers with an error after 30 s"),
    variable(HEALTH_TIMEOUT, As("2s"), Time(CHECK, |draft, time| draft.to.health_timeout = time),
        "Longest time of one check in `/health`"),
    variable("SHUTDOWN_GRACEPERIOD", As("25s"), Time(GRACE, |draft, time| draft.to.poller.grace_period = time),
        "Time for claimed rows to be settled after SIGTERM"),
    variable("SPRINGDOC_APIDOCS_ENABLED", As("true"), Flag(|draft, is_on| draft.to.api_docs = is_on),
        "Whether to serve `/v3/api-docs` and `/swagger-ui.html`"),
    variable("LOG_FORMAT", As("auto"),
        Other("json, text or auto", |draft, text| {
            let formats = [("json", LogFormat::Json), ("text", LogFormat::Text), ("auto", LogFormat::Auto)];
            let format = formats.into_iter().find(|(name, _)| *name == text);
            format.map(|(_, format)| draft.to.log_format = format).is_some()
        }),
        "`auto`: text on a terminal, otherwise JSON"),
    variable("NO_COLOR", Fine, Text("any value", |draft, _| draft.no_colours = true), "Switches colours off in text logs"),
    variable("TERM", Fine, Text("the name of a terminal", |draft, terminal| draft.no_colours |= terminal == "dumb"),
        "`dumb` switches colours off in text logs"),
    variable("RUST_LOG", As("info"),
        Other("off, error, warn, info, debug or trace, also for single modules such as info,probation_offender_events::poller=debug", |draft, levels| {
            levels.clone_into(&mut draft.to.log_levels);
            let idle = idle_directives(levels);
            for directive in idle.iter().flatten() {
                draft.warn(&format!("RUST_LOG: {directive} has no effect, because the log contains only the service's own lines"));
            }
            idle.is_some()
        }),
        "Level of the service's own log"),
    secret("APPLICATIONINSIGHTS_CONNECTION_STRING", Fine,
        Other("InstrumentationKey=…, optionally followed by ;IngestionEndpoint=https://… or ;EndpointSuffix=…", |draft, text| {
            draft.to.insights = connection(text);
            if draft.to.insights.as_ref().is_some_and(|insights| is_open(&insights.endpoint)) {
                draft.open.push("the IngestionEndpoint of APPLICATIONINSIGHTS_CONNECTION_STRING");
            }
            draft.to.insights.is_some()
        }),
        "Connection string of Application Insights. Without it, the service sends no telemetry"),
    variable("HOSTNAME", Fine, Text("a name", |draft, name| draft.instance = Some(name)),
        "Instance that Application Insights shows. Kubernetes sets it to the pod's name"),
    variable("BUILD_NUMBER", As(env!("CARGO_PKG_VERSION")), Text("a version", |draft, version| draft.to.build_number = version),
        "Version that `/info`, `/health` and Application Insights show"),
    variable("PRODUCT_ID", As("default"), Text("an id", |draft, id| draft.to.product_id = id), "Product id that `/info` shows"),
    variable("SPRING_PROFILES_ACTIVE", Fine, Text("names of profiles", |_, _| {}),
        "`dev` and `localstack` set defaults for docker-compose's stand-ins. Other names are ignored"),
];

/// Defaults of profiles that `SPRING_PROFILES_ACTIVE` may name, by profile: for the stand-ins of docker-compose.yml. They
/// override those of the table.
#[rustfmt::skip]
pub(super) const PROFILES: &[(&str, &str, &str)] = &[
    ("dev", "SERVER_PORT", "8081"),
    ("dev", "OAUTH_ENDPOINT_URL", "http://localhost:8090/auth"),
    ("dev", "OAUTH_CLIENT_ID", "probation-offender-events"),
    ("dev", "OAUTH_CLIENT_SECRET", "clientsecret"),
    ("dev", "COMMUNITY_ENDPOINT_URL", "http://localhost:8096"),
    ("dev", PROVIDER, "localstack"),
    ("localstack", PROVIDER, "localstack"),
];
