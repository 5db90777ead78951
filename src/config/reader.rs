//! Turns defaults, profile and environment into checked settings: first each variable by itself, then all together.

use std::time::Duration;

use config::{Config, ConfigError, Map, Source, Value};
use secrecy::{ExposeSecret, SecretString};

use super::draft::Draft;
use super::kind::{Kind, is_open, shown, topic_region};
use super::variables::{
    CLAIM_TIMEOUT, LOCALSTACK_TOPIC, LOCK_EXPIRY, PROFILES, PROVIDER, REGION, TOPIC_ARN, Unset,
    VARIABLES, Variable,
};
use super::{Faults, Settings};

/// After this time community-api answers a claim with an error.
const LONGEST_CLAIM: Duration = Duration::from_secs(30);
/// For how long community-api locks a row.
const REAL_LOCK: Duration = Duration::from_mins(10);

/// Warnings about a configuration that works but is probably not meant.
const HALF_A_KEY: &str = "only one of HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY is set, \
    so the service ignores it and uses the SDK's default chain of credentials. Set both or neither";
const NO_OPERATION: &str = "HMPPS_SQS_TRACEPARENT is true, but messages carry no traceparent without \
    APPLICATIONINSIGHTS_CONNECTION_STRING: there is no operation to join. Set the connection string, or \
    switch HMPPS_SQS_TRACEPARENT off";
const SHORT_CLAIM: &str = "API_CLAIMTIMEOUT is below 30 s. community-api itself answers with an error after 30 s. If \
    the service stops waiting before that, the claim may lock a row that no pod works on, for 10 minutes. Set it to \
    more than 30 s";
const LONG_LOCK: &str = "OFFENDERUPDATEPOLL_LOCKEXPIRY is above 10 minutes: if community-api's lock is shorter, two \
    pods may publish the same row. Set it to the length of community-api's lock";

/// The value of each variable that has one, and where it came from.
pub(super) struct Layers {
    values: Map<String, Value>,
}

impl Layers {
    pub fn new(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        Self::read(look_up)
            .map_err(|error| Faults(vec![format!("the defaults cannot be read: {error}")]))
    }

    fn read(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let from = |origin: &str, text: &str| Value::new(Some(&origin.to_owned()), text);
        let mut layers = Config::builder();
        for variable in VARIABLES {
            if let Some(text) = variable.default() {
                layers = layers.set_default(variable.name, from("default", text))?;
            }
        }
        let profiles = look_up("SPRING_PROFILES_ACTIVE").unwrap_or_default();
        for active in profiles.split(',').map(str::trim) {
            for (_, name, text) in PROFILES.iter().filter(|(profile, ..)| *profile == active) {
                layers = layers.set_default(name, from(&format!("profile {active}"), text))?;
            }
        }
        for Variable { name, kind, .. } in VARIABLES {
            let text = look_up(name);
            if let Some(text) = text.as_deref().and_then(|text| kind.content(text)) {
                layers = layers.set_override(name, from("environment", text))?;
            }
        }
        let mut values = layers.build()?.collect()?;
        // LocalStack has a default topic, unless another one is named.
        let provider = values.get(PROVIDER).map(Value::to_string);
        if provider.as_deref() == Some("localstack") && !values.contains_key(TOPIC_ARN) {
            values.insert(TOPIC_ARN.to_owned(), from("default", LOCALSTACK_TOPIC));
        }
        Ok(Self { values })
    }

    /// The value of a variable, and where it came from.
    pub fn get(&self, name: &str) -> Option<(String, &str)> {
        let value = self.values.get(name)?;
        let text = value.clone().into_string().ok()?;
        Some((text, value.origin().unwrap_or_default()))
    }
}

/// The settings while they are read.
struct Reader {
    layers: Layers,
    draft: Draft,
    /// At most one per variable.
    faults: Vec<(&'static str, String)>,
}

/// Reads all variables, and checks each by itself and then all together.
pub(super) fn settings(layers: Layers) -> Result<Settings, Faults> {
    let mut reader = Reader {
        layers,
        draft: Draft::default(),
        faults: Vec::new(),
    };
    reader.read_each();
    reader.join_topic();
    reader.join_times();
    reader.join_others();
    if reader.faults.is_empty() {
        return Ok(reader.draft.to);
    }
    let faults = reader.faults.into_iter().map(|(_, fault)| fault);
    Err(Faults(faults.collect()))
}

impl Reader {
    fn read_each(&mut self) {
        for variable in VARIABLES {
            let Variable { name, kind, .. } = variable;
            let text = self.layers.get(name).map(|(text, _)| text);
            let is_good = match &text {
                Some(text) => kind.read(text, &mut self.draft),
                None => !matches!(variable.unset, Unset::Wrong),
            };
            if !is_good {
                self.wrong(name, &kind.wants());
                // One mistake is one error: variables that depend on this one are checked against its default.
                let default = variable.default();
                default.map(|default| kind.read(default, &mut self.draft));
            } else if let (Kind::Address(_) | Kind::SdkAddress(_), Some(text)) = (kind, text)
                && is_open(&text)
            {
                self.draft.open.push(name);
            }
        }
    }

    fn join_topic(&mut self) {
        let topic = &mut self.draft.to.topic;
        let is_half = |keys: &mut (String, SecretString)| {
            keys.0.is_empty() || keys.1.expose_secret().is_empty()
        };
        let half = topic.keys.take_if(is_half);
        let all_of_aws = self.draft.aws_url.take();
        if topic.is_localstack {
            topic.keys = Some(("localstack".to_owned(), "localstack".into()));
            topic.endpoint = Some(std::mem::take(&mut self.draft.localstack_url));
            topic.sts_endpoint = None;
            return;
        }
        let sts_only = topic.sts_endpoint.take();
        topic.sts_endpoint = sts_only.or_else(|| all_of_aws.clone());
        topic.endpoint = topic.endpoint.take().or(all_of_aws);
        // SNS would refuse each message as a bad parameter (`TopicArn`).
        let region = topic_region(&topic.arn).filter(|region| *region != topic.region);
        if let Some(wants) = region.map(|region| format!("{region}, as in {TOPIC_ARN}")) {
            self.wrong(REGION, &wants);
        }
        if half.is_some() {
            // As in the predecessor, the keys are used only if both are set.
            self.draft.warn(HALF_A_KEY);
        }
        for name in std::mem::take(&mut self.draft.open) {
            self.draft.warn(&format!(
                "{name} is not https: secrets and personal data can be read in transit. Use https"
            ));
        }
    }

    fn join_times(&mut self) {
        let poller = &self.draft.to.poller;
        let (lock, claim) = (poller.lock_expiry, poller.claim_timeout);
        let least = [
            ("3 times API_CALLTIMEOUT", poller.call_timeout * 3),
            ("3 times HMPPS_SQS_CALLTIMEOUT", poller.publish_timeout * 3),
            // A row that a claim returns later than that is no longer locked.
            (CLAIM_TIMEOUT, claim),
        ];
        let least = least.into_iter().max_by_key(|(_, least)| *least);
        if let Some((what, least)) = least.filter(|(_, least)| lock < *least) {
            let wants = format!("at least {} ({what})", shown(least));
            self.wrong(LOCK_EXPIRY, &wants);
        }
        if claim < LONGEST_CLAIM {
            self.draft.warn(SHORT_CLAIM);
        }
        if lock > REAL_LOCK {
            self.draft.warn(LONG_LOCK);
        }
    }

    fn join_others(&mut self) {
        let settings = &mut self.draft.to;
        // The same port twice is one port, as in Spring; 0 is any port each time.
        let main = settings.server_port;
        settings.management_port =
            (settings.management_port).filter(|port| *port == 0 || *port != main);
        settings.log_colours = !self.draft.no_colours;
        match &mut settings.insights {
            Some(insights) => insights.instance = self.draft.instance.take(),
            None if settings.topic.traceparent => self.draft.warn(NO_OPERATION),
            None => {}
        }
    }

    /// Records that a variable has a wrong value.
    fn wrong(&mut self, name: &'static str, wants: &str) {
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        let has = match self.layers.get(name) {
            None => "is not set".to_owned(),
            Some((text, _)) if text.contains(char::REPLACEMENT_CHARACTER) => {
                "is text that is not UTF-8".to_owned()
            }
            Some((text, _)) if text.contains(char::is_control) => {
                "has a control character".to_owned()
            }
            Some(_) if variable.is_none_or(|variable| variable.is_secret) => {
                "is set to something else".to_owned()
            }
            // An address may hold a password or a token, and someone may have put a secret into another variable.
            Some((text, _)) if text.contains('@') => {
                "contains @ (the value is hidden, because it may be a password)".to_owned()
            }
            Some((text, _)) if text.contains('?') => {
                "contains ? (the value is hidden, because it may be a token)".to_owned()
            }
            Some((text, _)) if name == TOPIC_ARN && !text.starts_with("arn:") => {
                "does not start with arn:".to_owned()
            }
            Some((text, _)) => format!("is {text:?}"),
        };
        if self.faults.iter().all(|(other, _)| *other != name) {
            let fault = format!("{name} must be {wants}, but {has}");
            self.faults.push((name, fault));
        }
    }
}
