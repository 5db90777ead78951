//! Settings: embedded defaults, a profile's over them, the environment over both; checked as a whole, so that one start tells
//! all that is wrong.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use config::{Config, File, FileFormat};
use secrecy::SecretString;

use crate::poller::PollerSettings;

/// The topic that LocalStack is set up with.
const LOCALSTACK_TOPIC: &str = "arn:aws:sns:eu-west-2:000000000000:probation_offender_events";

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
        "the ARN of an SNS topic",
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
    variable("HMPPS_SQS_REGION", "an AWS region", "Region of the topic"),
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
        "SERVER_PORT",
        "a port, 0 to 65535",
        "Port of health, info, metrics; 0 takes a free one",
    ),
    variable(
        "MANAGEMENT_SERVER_PORT",
        "a port, 0 to 65535",
        "Port that `/prometheus`, `/health` and `/info` move to; only the probes stay on SERVER_PORT",
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
        "a whole number, 1 to 64",
        "Claims under way at once",
    ),
    variable(
        "OFFENDERUPDATEPOLL_MAXINFLIGHT",
        "a whole number, 1 to 10000",
        "Rows claimed and not yet settled",
    ),
    variable(
        "OFFENDERUPDATEPOLL_LOCKEXPIRY",
        "a duration such as 10m, at least three times the longer of API_CALLTIMEOUT and HMPPS_SQS_CALLTIMEOUT",
        "After which community-api serves a locked row again",
    ),
    variable(
        "OFFENDERUPDATEPOLL_MAXPERMANENTFAILURES",
        "a whole number, 0 to 1000000",
        "Rows that may be marked as permanently failed within the window",
    ),
    variable(
        "OFFENDERUPDATEPOLL_PERMANENTFAILURESWINDOW",
        "a duration such as 10m",
        "That window",
    ),
    variable(
        "HMPPS_SQS_CALLTIMEOUT",
        "a duration such as 5s",
        "Longest time of a publish",
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
        "LOG_FORMAT",
        "json, text or auto",
        "`auto`: text on a terminal, otherwise JSON",
    ),
    variable(
        "RUST_LOG",
        "a level such as info",
        "Level of the service's own log",
    ),
    variable(
        "BUILD_NUMBER",
        "a version",
        "Version that `/info` and `/health` show",
    ),
    variable("PRODUCT_ID", "an id", "Product id that `/info` shows"),
    variable(
        "SPRING_PROFILES_ACTIVE",
        "names of profiles",
        "`dev` or `localstack` take the defaults for docker-compose's stand-ins; other names are ignored",
    ),
];

/// The settings of the service, complete and checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base address of community-api, without a slash at its end.
    pub community_url: String,
    /// Base address of hmpps-auth, without a slash at its end.
    pub auth_url: String,
    /// The OAuth2 client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
    /// Where events go.
    pub topic: TopicSettings,
    /// Port for everything, or for all but what moves to the management port.
    pub server_port: u16,
    /// Port for health, info and metrics, if they are to be apart.
    pub management_port: Option<u16>,
    /// Whether to poll.
    pub poll_enabled: bool,
    /// The poller's own settings.
    pub poller: PollerSettings,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time of one health check.
    pub health_timeout: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Levels of the service's own log, in the words of `RUST_LOG`.
    pub log_levels: String,
    /// Version to show.
    pub build_number: String,
    /// Product id to show.
    pub product_id: String,
}

/// Where events go and with which rights.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// The ARN of the topic.
    pub arn: String,
    /// Its region.
    pub region: String,
    /// Another address than AWS'.
    pub endpoint: Option<String>,
    /// Key id and secret; without them the SDK looks for credentials itself.
    pub keys: Option<(String, SecretString)>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
    /// Text on a terminal, otherwise JSON.
    Auto,
}

/// All that is wrong with the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the configuration has {} fault(s):",
            self.0.len()
        )?;
        self.0
            .iter()
            .try_for_each(|fault| write!(formatter, "\n  - {fault}"))
    }
}

impl std::error::Error for Faults {}

impl Settings {
    /// Reads the settings from defaults and environment.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_environment() -> Result<Self, Faults> {
        Self::from_variables(|name| {
            std::env::var_os(name).map(|value| {
                value
                    .into_string()
                    .map_err(|_| "text that is not UTF-8".to_owned())
            })
        })
    }

    /// Reads the settings from defaults and what `look_up` knows of each variable: nothing, a value, or why there is no
    /// value although it is set.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_variables(
        look_up: impl Fn(&str) -> Option<Result<String, String>>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(look_up)?;
        let settings = reader.settings();
        match settings {
            Some(settings) if reader.faults.is_empty() => Ok(settings),
            _ => Err(Faults(reader.faults)),
        }
    }
}

fn default_of(name: &str) -> Option<String> {
    defaults().ok()?.get_string(&format!("default.{name}")).ok()
}

fn defaults() -> Result<Config, config::ConfigError> {
    Config::builder()
        .add_source(File::from_str(
            include_str!("defaults.toml"),
            FileFormat::Toml,
        ))
        .build()
}

/// Reads variable after variable, collecting faults.
struct Reader {
    values: Config,
    faults: Vec<String>,
}

impl Reader {
    fn new(look_up: impl Fn(&str) -> Option<Result<String, String>>) -> Result<Self, Faults> {
        let broken =
            |error: config::ConfigError| Faults(vec![format!("the embedded defaults: {error}")]);
        let defaults = defaults().map_err(broken)?;
        let mut faults = Vec::new();
        let mut layers = Config::builder();
        let profiles = look_up("SPRING_PROFILES_ACTIVE")
            .and_then(Result::ok)
            .unwrap_or_default();
        for section in std::iter::once("default").chain(profiles.split(',').map(str::trim)) {
            for (name, value) in defaults.get_table(section).unwrap_or_default() {
                layers = layers.set_override(name, value).map_err(broken)?;
            }
        }
        for variable in VARIABLES {
            match look_up(variable.name) {
                // Set to nothing is not set: that is how compose files and optional secrets leave a variable out.
                None => {}
                Some(Ok(value)) if value.trim().is_empty() => {}
                Some(Ok(value)) => {
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
        Ok(Self {
            values: layers.build().map_err(broken)?,
            faults,
        })
    }

    fn settings(&mut self) -> Option<Settings> {
        let community_url = self.address("COMMUNITY_ENDPOINT_URL");
        let auth_url = self.address("OAUTH_ENDPOINT_URL");
        let client_id = self.required("OAUTH_CLIENT_ID");
        let client_secret = self.required("OAUTH_CLIENT_SECRET").map(SecretString::from);
        let topic = self.topic();
        let poller = self.poller();
        let server_port = self.parsed("SERVER_PORT");
        let management_port = self
            .optional("MANAGEMENT_SERVER_PORT")
            .map(|_| self.parsed("MANAGEMENT_SERVER_PORT"));
        let poll_enabled = self.parsed("OFFENDERUPDATEPOLL_ENABLED");
        let connect_timeout = self.duration("API_CONNECTTIMEOUT");
        let health_timeout = self.duration("API_HEALTHTIMEOUT");
        let log_format = self.parsed("LOG_FORMAT");
        let log_levels = self.log_levels();
        Some(Settings {
            community_url: community_url?,
            auth_url: auth_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            topic: topic?,
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
            log_format: log_format?,
            log_levels: log_levels?,
            build_number: self
                .optional("BUILD_NUMBER")
                .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            product_id: self.required("PRODUCT_ID")?,
        })
    }

    fn topic(&mut self) -> Option<TopicSettings> {
        let localstack = match self.required("HMPPS_SQS_PROVIDER")?.as_str() {
            "aws" => false,
            "localstack" => true,
            _ => return self.fault("HMPPS_SQS_PROVIDER"),
        };
        if localstack {
            let arn = self
                .optional("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN")
                .unwrap_or_else(|| LOCALSTACK_TOPIC.into());
            let dummy = || "localstack".to_owned();
            return Some(TopicSettings {
                arn,
                region: self.required("HMPPS_SQS_REGION")?,
                endpoint: Some(self.address("HMPPS_SQS_LOCALSTACKURL")?),
                keys: Some((dummy(), dummy().into())),
            });
        }
        let arn = self.required("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN");
        let is_topic = |arn: &String| {
            arn.starts_with("arn:aws") && arn.split(':').count() == 6 && arn.contains(":sns:")
        };
        let arn = match arn {
            Some(arn) if !is_topic(&arn) => self.fault("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN"),
            arn => arn,
        };
        let key_id = self.optional("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID");
        let secret_key = self.optional("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY");
        let keys = match (key_id, secret_key) {
            (Some(id), Some(secret)) => Some((id, secret.into())),
            (None, None) => None,
            (Some(_), None) => {
                return self.fault("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY");
            }
            (None, Some(_)) => return self.fault("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID"),
        };
        let region = self.required("HMPPS_SQS_REGION");
        Some(TopicSettings {
            arn: arn?,
            region: region?,
            endpoint: None,
            keys,
        })
    }

    fn poller(&mut self) -> Option<PollerSettings> {
        let fixed_delay = self.number("OFFENDERUPDATEPOLL_FIXEDDELAY_MS", 1, 86_400_000);
        let claimers = self.number("OFFENDERUPDATEPOLL_CLAIMERS", 1, 64);
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
        let grace_period = self.duration("SHUTDOWN_GRACEPERIOD");
        Some(PollerSettings {
            fixed_delay: Duration::from_millis(fixed_delay? as u64),
            claimers: claimers?,
            max_in_flight: max_in_flight?,
            lock_expiry: lock_expiry?,
            call_timeout: call_timeout?,
            publish_timeout: publish_timeout?,
            claim_timeout: claim_timeout?,
            brake_limit: brake_limit?,
            brake_window: brake_window?,
            grace_period: grace_period?,
        })
    }

    fn optional(&self, name: &str) -> Option<String> {
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
        match reqwest::Url::parse(&text) {
            Ok(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none() =>
            {
                Some(text.trim_end_matches('/').to_owned())
            }
            _ => self.fault(name),
        }
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

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            "auto" => Ok(Self::Auto),
            _ => Err(()),
        }
    }
}

/// A duration above zero and up to a day, as Spring takes it: `2s`, `500ms`, `10m`, ISO 8601's `PT2S`, or plain milliseconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let duration = match text.parse() {
        Ok(milliseconds) => Duration::from_millis(milliseconds),
        Err(_) => text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()?,
    };
    (!duration.is_zero() && duration <= Duration::from_hours(24)).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &[(&str, &str)] = &[
        ("COMMUNITY_ENDPOINT_URL", "https://community-api/"),
        ("OAUTH_ENDPOINT_URL", "https://sign-in/auth"),
        ("OAUTH_CLIENT_ID", "id"),
        ("OAUTH_CLIENT_SECRET", "hush-hush"),
        (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
            "arn:aws:sns:eu-west-2:1:topic",
        ),
    ];

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Faults> {
        Settings::from_variables(|name| {
            variables
                .iter()
                .rev()
                .find(|(other, _)| *other == name)
                .map(|(_, value)| Ok((*value).to_owned()))
        })
    }

    fn read_with(more: &[(&str, &str)]) -> Result<Settings, Faults> {
        read(&[COMPLETE, more].concat())
    }

    #[test]
    fn what_the_secrets_and_values_set_today_is_enough_and_the_rest_has_defaults() {
        let settings = read_with(&[
            ("JAVA_OPTS", "-Xmx1g"),
            ("SPRING_PROFILES_ACTIVE", "prod,logstash"),
        ])
        .unwrap();
        assert_eq!(settings.community_url, "https://community-api");
        assert_eq!(
            (
                settings.server_port,
                settings.management_port,
                settings.poll_enabled
            ),
            (8080, None, true)
        );
        assert_eq!(settings.poller.fixed_delay, Duration::from_secs(10));
        assert_eq!(
            (settings.poller.claimers, settings.poller.max_in_flight),
            (1, 32)
        );
        assert_eq!(settings.health_timeout, Duration::from_secs(2));
        assert!(settings.topic.endpoint.is_none() && settings.topic.keys.is_none());
        assert_eq!(settings.topic.region, "eu-west-2");
    }

    #[test]
    fn nothing_set_names_everything_that_has_to_be() {
        let faults = read(&[]).unwrap_err();
        let expected = [
            "COMMUNITY_ENDPOINT_URL is not set; it wants an http(s) address",
            "OAUTH_ENDPOINT_URL is not set; it wants an http(s) address",
            "OAUTH_CLIENT_ID is not set; it wants a client id",
            "OAUTH_CLIENT_SECRET is not set; it wants a client secret",
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN is not set; it wants the ARN of an SNS topic",
        ];
        assert_eq!(faults.0, expected);
        assert!(
            faults
                .to_string()
                .starts_with("the configuration has 5 fault(s):\n  - COMMUNITY_ENDPOINT_URL")
        );
    }

    #[test]
    fn every_bad_value_is_one_fault_that_names_it() {
        for (name, values) in [
            ("SERVER_PORT", &["65536", "-1", "http", "8080.0"][..]),
            ("MANAGEMENT_SERVER_PORT", &["x", "70000"]),
            ("OFFENDERUPDATEPOLL_ENABLED", &["yes", "TRUE", "0"]),
            (
                "OFFENDERUPDATEPOLL_FIXEDDELAY_MS",
                &["0", "10s", "-1", "99999999999999999999"],
            ),
            ("OFFENDERUPDATEPOLL_CLAIMERS", &["0", "65"]),
            ("OFFENDERUPDATEPOLL_MAXINFLIGHT", &["0", "10001", "many"]),
            ("OFFENDERUPDATEPOLL_LOCKEXPIRY", &["10s", "0s", "soon"]),
            ("API_CALLTIMEOUT", &["0", "-5s", "2 fortnights", "25h"]),
            (
                "COMMUNITY_ENDPOINT_URL",
                &["community-api", "ftp://x", "https://x?y", "http://"],
            ),
            (
                "HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN",
                &["topic", "arn:aws:sqs:eu-west-2:1:queue"],
            ),
            ("HMPPS_SQS_PROVIDER", &["azure"]),
            ("LOG_FORMAT", &["xml"]),
            ("RUST_LOG", &["a=b=c"]),
        ] {
            for value in values {
                let faults = read_with(&[(name, value)]).unwrap_err().0;
                assert_eq!(faults.len(), 1, "{faults:?}");
                assert!(
                    faults[0].starts_with(&format!("{name} is {value:?}; it wants ")),
                    "{faults:?}"
                );
            }
        }
    }

    #[test]
    fn one_of_two_keys_is_a_fault_and_no_secret_is_ever_printed() {
        let key = ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID", "AKIAHUSH");
        let secret = (
            "HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY",
            "hush-hush",
        );
        for (one, other) in [(key, secret), (secret, key)] {
            let faults = read_with(&[one, ("SERVER_PORT", "x")])
                .unwrap_err()
                .to_string();
            assert!(
                faults.contains(&format!("{} is not set", other.0)),
                "{faults}"
            );
            assert!(!faults.contains(one.1), "{faults}");
        }
        let settings = read_with(&[key, secret, ("RUST_LOG", "debug")]).unwrap();
        assert!(settings.topic.keys.is_some());
        assert!(!format!("{settings:?}").contains("hush-hush"));
    }

    #[test]
    fn an_address_with_a_user_is_a_fault_and_its_password_is_not_printed() {
        for address in ["https://user:hush-hush@x", "https://:hush-hush@x"] {
            let faults = read_with(&[("COMMUNITY_ENDPOINT_URL", address)]).unwrap_err();
            let faults = faults.to_string();
            assert!(faults.contains("COMMUNITY_ENDPOINT_URL is an address with a user in it"));
            assert!(!faults.contains("hush-hush"), "{faults}");
        }
    }

    #[test]
    fn a_management_port_that_is_the_main_port_is_none() {
        let ports = |main, management| {
            let ports = [
                ("SERVER_PORT", main),
                ("MANAGEMENT_SERVER_PORT", management),
            ];
            read_with(&ports).unwrap().management_port
        };
        assert_eq!(ports("8080", "8080"), None);
        assert_eq!(ports("8080", "8081"), Some(8081));
        assert_eq!(ports("0", "0"), Some(0));
    }

    #[test]
    fn an_empty_value_counts_as_not_set() {
        let settings = read_with(&[
            ("MANAGEMENT_SERVER_PORT", ""),
            ("SERVER_PORT", " "),
            ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID", ""),
            ("HMPPS_SQS_TOPICS_PROBATIONEVENTS_SECRET_ACCESS_KEY", ""),
        ]);
        assert_eq!(settings.unwrap().server_port, 8080);
        assert!(
            read_with(&[("OAUTH_CLIENT_SECRET", "")]).unwrap_err().0[0]
                .contains("OAUTH_CLIENT_SECRET is not set")
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_a_fault() {
        let faults = Settings::from_variables(|name| {
            let broken = (name == "SERVER_PORT").then(|| Err("text that is not UTF-8".to_owned()));
            broken.or_else(|| {
                COMPLETE
                    .iter()
                    .find(|(other, _)| *other == name)
                    .map(|(_, value)| Ok((*value).into()))
            })
        });
        assert_eq!(
            faults.unwrap_err().0,
            ["SERVER_PORT is text that is not UTF-8; it wants a port, 0 to 65535"]
        );
    }

    #[test]
    fn localstack_has_address_keys_and_topic_of_its_own_and_the_dev_profile_everything() {
        let settings = read(&[("SPRING_PROFILES_ACTIVE", "dev")]).unwrap();
        assert_eq!(settings.topic.arn, LOCALSTACK_TOPIC);
        assert_eq!(
            settings.topic.endpoint.as_deref(),
            Some("http://localhost:4566")
        );
        assert!(settings.topic.keys.is_some());
        assert_eq!(settings.server_port, 8081);
        let settings = read(&[("SPRING_PROFILES_ACTIVE", "dev"), ("SERVER_PORT", "9000")]).unwrap();
        assert_eq!(settings.server_port, 9000);
    }

    #[test]
    fn the_readme_shows_this_table_of_variables() {
        let table: String = VARIABLES.iter().map(Variable::readme_row).collect();
        let readme = include_str!("../README.md");
        assert!(
            readme.contains(&table),
            "the README's table should be:\n{table}"
        );
    }

    #[test]
    fn every_default_belongs_to_a_variable() {
        for section in ["default", "dev", "localstack"] {
            for (name, _) in defaults().unwrap().get_table(section).unwrap() {
                let known = |variable: &Variable| variable.name.eq_ignore_ascii_case(&name);
                assert!(VARIABLES.iter().any(known), "{name}");
            }
        }
    }

    #[test]
    fn durations_are_read_as_spring_reads_them() {
        for (text, milliseconds) in [
            ("2s", 2000),
            ("500ms", 500),
            ("10m", 600_000),
            ("PT2.5S", 2500),
            ("750", 750),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }
}
