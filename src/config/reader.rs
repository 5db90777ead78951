//! From defaults, profile and environment to checked values, collecting every fault on the way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, ConfigError};
use secrecy::SecretString;

use super::variables::{VARIABLES, defaults};
use super::{Faults, InsightsSettings, PollerSettings, Settings, TopicSettings};
use crate::event::mappings::EventOption;

const TOPIC_ARN: &str = "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN";
/// The topic that LocalStack is set up with.
pub(super) const LOCALSTACK_TOPIC: &str =
    "arn:aws:sns:eu-west-2:000000000000:probation_offender_events";

/// Where Application Insights takes telemetry if the connection string does not say: the public cloud.
const ENDPOINT_SUFFIX: &str = "services.visualstudio.com";

/// What is odd about a configuration that works.
const HALF_A_KEY: &str = "only one of HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY is set: \
    neither is used, but the default chain of credentials";

const NO_OPERATION: &str = "HMPPS_SQS_TRACEPARENT is true, but messages carry no traceparent without \
    APPLICATIONINSIGHTS_CONNECTION_STRING: there is no operation to join";

const NO_CLAIMERS: &str =
    "OFFENDERUPDATEPOLL_CLAIMERS is ignored: one claimer per pod is as fast as community-api";

/// How many rows in trouble, and rows that wait for others of their offender, a pod holds beside those with a place. One
/// takes about a kilobyte. With 256, an offender with 300 bad rows in one piece delays the rows behind it by 9 s.
const HELD_BESIDE_PLACES: usize = 256;

/// Reads variable after variable, collecting faults.
pub(super) struct Reader {
    values: Config,
    /// Where each value came from, by variable.
    origins: BTreeMap<String, String>,
    pub faults: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    pub fn new(look_up: impl Fn(&str) -> Option<Result<String, String>>) -> Result<Self, Faults> {
        let broken = |error: ConfigError| Faults(vec![format!("the embedded defaults: {error}")]);
        let defaults = defaults().map_err(broken)?;
        let mut faults = Vec::new();
        let mut layers = Config::builder()
            .set_override("BUILD_NUMBER", env!("CARGO_PKG_VERSION"))
            .map_err(broken)?;
        let mut origins = BTreeMap::new();
        let profiles = look_up("SPRING_PROFILES_ACTIVE")
            .and_then(Result::ok)
            .unwrap_or_default();
        for (name, value) in defaults.get_table("default").map_err(broken)? {
            layers = layers.set_override(name, value).map_err(broken)?;
        }
        for profile in profiles.split(',').map(str::trim) {
            let section = defaults.get_table(&format!("profiles.{profile}"));
            for (name, value) in section.unwrap_or_default() {
                origins.insert(name.to_ascii_uppercase(), format!("profile {profile}"));
                layers = layers.set_override(name, value).map_err(broken)?;
            }
        }
        for variable in VARIABLES {
            match look_up(variable.name) {
                // Set to nothing is not set: that is how compose files and optional secrets leave a variable out.
                None => {}
                Some(Ok(value)) if value.trim().is_empty() => {}
                Some(Ok(value)) => {
                    origins.insert(variable.name.to_owned(), "environment".to_owned());
                    layers = layers.set_override(variable.name, value).map_err(broken)?;
                }
                Some(Err(problem)) => {
                    faults.push(format!(
                        "{} is {problem}; it wants {}",
                        variable.name, variable.wants
                    ));
                }
            }
        }
        let mut reader = Self {
            values: layers.build().map_err(broken)?,
            origins,
            faults,
            warnings: Vec::new(),
        };
        reader.fill_in_localstack().map_err(broken)?;
        Ok(reader)
    }

    /// LocalStack has a topic of its own, unless another one is named.
    fn fill_in_localstack(&mut self) -> Result<(), ConfigError> {
        let is_localstack = self.optional("HMPPS_SQS_PROVIDER").as_deref() == Some("localstack");
        if is_localstack && self.optional(TOPIC_ARN).is_none() {
            self.values = Config::builder()
                .add_source(self.values.clone())
                .set_override(TOPIC_ARN, LOCALSTACK_TOPIC)?
                .build()?;
        }
        Ok(())
    }

    /// Where a value came from.
    pub fn origin(&self, name: &str) -> &str {
        self.origins.get(name).map_or("default", String::as_str)
    }

    pub fn settings(&mut self) -> Option<Settings> {
        let community_url = self.secret_address("COMMUNITY_ENDPOINT_URL");
        let auth_url = self.secret_address("OAUTH_ENDPOINT_URL");
        let client_id = self.required("OAUTH_CLIENT_ID");
        let client_secret = self.required("OAUTH_CLIENT_SECRET").map(SecretString::from);
        let topic = self.topic();
        let insights = self
            .optional("APPLICATIONINSIGHTS_CONNECTION_STRING")
            .map(|connection| self.insights(&connection));
        let poller = self.poller();
        let server_port = self.parsed("SERVER_PORT");
        let management_port = self
            .optional("MANAGEMENT_SERVER_PORT")
            .map(|_| self.parsed("MANAGEMENT_SERVER_PORT"));
        let poll_enabled = self.boolean("OFFENDERUPDATEPOLL_ENABLED");
        let connect_timeout = self.duration("API_CONNECTTIMEOUT");
        let health_timeout = self.duration("API_HEALTHTIMEOUT");
        let api_docs = self.boolean("SPRINGDOC_APIDOCS_ENABLED");
        let log_format = self.parsed("LOG_FORMAT");
        let log_levels = self.log_levels();
        Some(Settings {
            community_url: community_url?,
            auth_url: auth_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            topic: topic?,
            insights: match insights {
                Some(insights) => Some(insights?),
                None => None,
            },
            server_port: server_port?,
            management_port: match management_port {
                // The same port twice is one port, as in Spring; 0 is any port each time.
                Some(port) => Some(port?).filter(|port| *port == 0 || Some(*port) != server_port),
                None => None,
            },
            poll_enabled: poll_enabled?,
            poller: poller?,
            connect_timeout: connect_timeout?,
            health_timeout: health_timeout?,
            api_docs: api_docs?,
            log_colours: self.optional("NO_COLOR").is_none()
                && self.optional("TERM").as_deref() != Some("dumb"),
            log_format: log_format?,
            log_levels: log_levels?,
            build_number: self.required("BUILD_NUMBER")?,
            product_id: self.required("PRODUCT_ID")?,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    fn topic(&mut self) -> Option<TopicSettings> {
        let traceparent = self.traceparent();
        let is_localstack = match self.required("HMPPS_SQS_PROVIDER")?.as_str() {
            "aws" => false,
            "localstack" => true,
            _ => return self.fault("HMPPS_SQS_PROVIDER"),
        };
        let arn = match self.required(TOPIC_ARN) {
            Some(arn) if !is_topic(&arn) => self.fault(TOPIC_ARN),
            arn => arn,
        };
        let region = self.required("HMPPS_SQS_REGION");
        if is_localstack {
            let dummy = || "localstack".to_owned();
            return Some(TopicSettings {
                arn: arn?,
                region: region?,
                endpoint: Some(self.address("HMPPS_SQS_LOCALSTACKURL")?),
                keys: Some((dummy(), dummy().into())),
                is_localstack,
                traceparent: traceparent?,
            });
        }
        let region = match (&arn, region) {
            // SNS would refuse each message as a bad parameter (`TopicArn`).
            (Some(arn), Some(region)) if arn.split(':').nth(3) != Some(region.as_str()) => {
                self.fault("HMPPS_SQS_REGION")
            }
            (_, region) => region,
        };
        let keys = self.topic_keys();
        // The SDK reads them itself, and finds out only at the first call that one is no address.
        let all_of_aws = self.optional_address("AWS_ENDPOINT_URL");
        let sns_only = self.optional_address("AWS_ENDPOINT_URL_SNS");
        Some(TopicSettings {
            arn: arn?,
            region: region?,
            endpoint: sns_only.or(all_of_aws),
            keys,
            is_localstack,
            traceparent: traceparent?,
        })
    }

    fn topic_keys(&mut self) -> Option<(String, SecretString)> {
        let key_id = self.optional("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID");
        let secret_key = self.optional("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY");
        match (key_id, secret_key) {
            (Some(id), Some(secret)) => Some((id, secret.into())),
            (None, None) => None,
            // As before: the keys count where both are set.
            _ => {
                self.warnings.push(HALF_A_KEY.to_owned());
                None
            }
        }
    }

    fn traceparent(&mut self) -> Option<bool> {
        let connection = self.optional("APPLICATIONINSIGHTS_CONNECTION_STRING");
        let is_on = self.boolean("HMPPS_SQS_TRACEPARENT");
        if is_on == Some(true) && connection.is_none() {
            self.warnings.push(NO_OPERATION.to_owned());
        }
        is_on
    }

    /// Parts are `name=value`, names in any case; what is not used here (`LiveEndpoint` and others) may be anything.
    fn insights(&mut self, connection: &str) -> Option<InsightsSettings> {
        let part = |wanted: &str| {
            connection.split(';').find_map(|part| {
                let (name, value) = part.split_once('=')?;
                let is_wanted = name.trim().eq_ignore_ascii_case(wanted);
                is_wanted.then(|| value.trim().to_owned())
            })
        };
        // Mostly a UUID. What is no such word may be a variable that was not filled in.
        let is_key = |key: &String| {
            (1..=40).contains(&key.len())
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let endpoint = part("IngestionEndpoint").unwrap_or_else(|| {
            let suffix = part("EndpointSuffix").unwrap_or_else(|| ENDPOINT_SUFFIX.to_owned());
            let location = part("Location").map_or_else(String::new, |name| name + ".");
            format!("https://{location}dc.{suffix}")
        });
        let endpoint = base_address(&endpoint).filter(|endpoint| !endpoint.ends_with('.'));
        match (part("InstrumentationKey").filter(is_key), endpoint) {
            (Some(key), Some(endpoint)) => Some(InsightsSettings {
                instrumentation_key: key.into(),
                endpoint,
                instance: self.optional("HOSTNAME"),
            }),
            _ => self.fault("APPLICATIONINSIGHTS_CONNECTION_STRING"),
        }
    }

    fn poller(&mut self) -> Option<PollerSettings> {
        let fixed_delay = self.number("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", 1, 86_400_000);
        if self.optional("OFFENDERUPDATEPOLL_CLAIMERS").is_some() {
            self.warnings.push(NO_CLAIMERS.to_owned());
        }
        let max_in_flight = self.number("OFFENDERUPDATEPOLL_MAXINFLIGHT", 1, 10_000);
        let call_timeout = self.duration("API_CALLTIMEOUT");
        let publish_timeout = self.duration("HMPPS_SQS_CALLTIMEOUT");
        let longest_call = call_timeout.max(publish_timeout).unwrap_or_default();
        let lock_expiry = match self.duration("OFFENDERUPDATEPOLL_LOCKEXPIRY") {
            Some(expiry) if expiry < longest_call * 3 => {
                self.fault("OFFENDERUPDATEPOLL_LOCKEXPIRY")
            }
            expiry => expiry,
        };
        let brake_limit = self.number("OFFENDERUPDATEPOLL_MAXPERMANENTFAILURES", 0, 1_000_000);
        let brake_window = self.duration("OFFENDERUPDATEPOLL_PERMANENTFAILURESWINDOW");
        let claim_timeout = self.duration("API_CLAIMTIMEOUT");
        let contact_deleted = EventOption::ContactDeleted;
        let is_contact_deleted = self.boolean(contact_deleted.setting());
        let grace_period = self.duration("SHUTDOWN_GRACEPERIOD");
        Some(PollerSettings {
            fixed_delay: Duration::from_millis(fixed_delay? as u64),
            max_in_flight: max_in_flight?,
            held_limit: max_in_flight? + HELD_BESIDE_PLACES,
            lock_expiry: lock_expiry?,
            call_timeout: call_timeout?,
            publish_timeout: publish_timeout?,
            claim_timeout: claim_timeout?,
            brake_limit: brake_limit?,
            brake_window: brake_window?,
            event_options: is_contact_deleted?
                .then_some(contact_deleted)
                .into_iter()
                .collect(),
            grace_period: grace_period?,
        })
    }

    pub fn optional(&self, name: &str) -> Option<String> {
        self.values
            .get_string(name)
            .ok()
            .map(|value| value.trim().to_owned())
    }

    fn required(&mut self, name: &str) -> Option<String> {
        self.optional(name).or_else(|| self.fault(name))
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.required(name)?
            .parse()
            .ok()
            .or_else(|| self.fault(name))
    }

    /// As Spring reads them: `true`, `yes`, `on` or `1`, in any case, and their opposites.
    fn boolean(&mut self, name: &str) -> Option<bool> {
        let text = self.required(name)?;
        let read = config::Value::from(text).into_bool();
        read.ok().or_else(|| self.fault(name))
    }

    fn number(&mut self, name: &str, least: usize, most: usize) -> Option<usize> {
        let number: usize = self.parsed(name)?;
        if (least..=most).contains(&number) {
            Some(number)
        } else {
            self.fault(name)
        }
    }

    fn duration(&mut self, name: &str) -> Option<Duration> {
        let text = self.required(name)?;
        parse_duration(&text).or_else(|| self.fault(name))
    }

    fn address(&mut self, name: &str) -> Option<String> {
        let text = self.required(name)?;
        base_address(&text).or_else(|| self.fault(name))
    }

    /// An address that need not be set.
    fn optional_address(&mut self, name: &str) -> Option<String> {
        self.optional(name)?;
        self.address(name)
    }

    /// An address of a service that gets a token or a secret.
    fn secret_address(&mut self, name: &str) -> Option<String> {
        let address = self.address(name)?;
        let is_local = self.optional("HMPPS_SQS_PROVIDER").as_deref() == Some("localstack");
        if !is_local && address.starts_with("http://") && !is_loopback(&address) {
            let warning =
                format!("{name} is not https: secrets and personal data can be read on the way");
            self.warnings.push(warning);
        }
        Some(address)
    }

    fn log_levels(&mut self) -> Option<String> {
        let levels = self.required("RUST_LOG")?;
        match tracing_subscriber::EnvFilter::try_new(&levels) {
            Ok(_) => Some(levels),
            Err(_) => self.fault("RUST_LOG"),
        }
    }

    /// Notes what a variable has and what it wants; there is no value, whatever the type.
    fn fault<T>(&mut self, name: &str) -> Option<T> {
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        let (wants, secret) = variable.map_or(("a value", true), |variable| {
            (variable.wants, variable.secret)
        });
        let has = match self.optional(name) {
            None => "is not set".to_owned(),
            Some(_) if secret => "is set to something else".to_owned(),
            // An address may hold a password.
            Some(value) if value.contains('@') => "is an address with a user in it".to_owned(),
            Some(value) => format!("is {value:?}"),
        };
        self.faults.push(format!("{name} {has}; it wants {wants}"));
        None
    }
}

/// An address to which paths can be added, so without a slash at its end.
fn base_address(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let is_base = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    // As it was understood, not as it was written: the two may differ (`http:/localhost`).
    is_base.then(|| url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback(address: &str) -> bool {
    let url = reqwest::Url::parse(address).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str);
    host.is_some_and(|host| {
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    })
}

/// A topic that this service can publish to: a standard one (a FIFO topic wants a message group) of AWS' main partition.
fn is_topic(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let ["arn", "aws", "sns", region, account, name] = parts[..] else {
        return false;
    };
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=256).contains(&name.len()) && name.bytes().all(is_allowed)
    };
    let is_account = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    !region.is_empty() && is_account && is_name(name)
}

/// A duration above zero and up to a day, as Spring takes it: `2s`, `500ms`, `10m`, ISO 8601's `PT2S`, or plain milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let duration = match text.parse() {
        Ok(milliseconds) => Duration::from_millis(milliseconds),
        Err(_) => text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()?,
    };
    (!duration.is_zero() && duration <= Duration::from_hours(24)).then_some(duration)
}
