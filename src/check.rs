//! The `check` subcommand: would the service work in this environment? Nothing is claimed and nothing is published.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::community_api::CommunityApi;
use crate::config::{CALL_TIMEOUT, InsightsSettings};
use crate::health::{Component, Health, Status};
use crate::identity::Identity;
use crate::insights::export;
use crate::offender_update::OffenderId;
use crate::ports::{CallError, CallErrorKind, Updates};
use crate::token::{Purpose, Token, TokenSource};

/// The roles that community-api wants of the token, and what for.
const ROLES: [(&str, &str); 2] = [
    ("ROLE_COMMUNITY_EVENTS", "to claim and settle rows"),
    ("ROLE_COMMUNITY", "to look up identifiers"),
];

/// What to do about errors of the topic, by what is in their text.
const TOPIC_ADVICE: [(&str, &str); 6] = [
    (
        "NotFound",
        "there is no such topic: is HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN right?",
    ),
    (
        "InvalidParameter",
        "this address knows no topic with this ARN: is HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN right?",
    ),
    (
        "AuthorizationError",
        "have sns:GetTopicAttributes and sns:Publish on the topic granted to these credentials",
    ),
    ("InvalidClientTokenId", BAD_KEYS),
    ("SignatureDoesNotMatch", BAD_KEYS),
    (
        "credentials",
        "set both keys of the topic, or give the pod a role by its service account",
    ),
];
const BAD_KEYS: &str =
    "are HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY right?";

/// What is looked at.
#[derive(Debug)]
pub struct Environment {
    /// What is odd about the settings.
    pub warnings: Vec<String>,
    /// Base address of hmpps-auth.
    pub auth_url: String,
    /// Base address of community-api.
    pub community_url: String,
    /// The address of LocalStack, if that is used.
    pub localstack_url: Option<String>,
    /// The same checks as those of `/health`.
    pub health: Health,
    /// Where the token comes from.
    pub tokens: TokenSource,
    /// Whether community-api accepts it.
    pub updates: CommunityApi,
    /// Longest time of a call to community-api.
    pub call_timeout: Duration,
    /// Where telemetry goes; `None`: nowhere.
    pub insights: Option<InsightsSettings>,
    /// The service's identity at AWS. LocalStack has none.
    pub identity: Option<Identity>,
}

/// A line of the answer.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was seen, or what is wrong and what to do about it.
    pub outcome: Result<String, String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, text) = match &self.outcome {
            Ok(text) => ("ok", text),
            Err(text) => ("FAILED", text),
        };
        // The SDK's errors have several lines.
        let text: Vec<_> = text.lines().map(str::trim).collect();
        write!(
            formatter,
            "{mark:<6}  {:<13}  {}",
            self.what,
            text.join(" ")
        )
    }
}

impl Environment {
    /// Looks at everything, and leaves it as it was. With an offender, also asks for its identifiers.
    pub async fn findings(&self, offender: Option<OffenderId>) -> Vec<Finding> {
        let (report, token, holder, insights) = tokio::join!(
            self.health.report(),
            self.tokens.get(Purpose::Claim),
            self.holder(),
            self.insights()
        );
        let mut components = report.map(|report| report.components).unwrap_or_default();
        let mut component = |name| components.remove(name).ok_or("the check broke off");
        let auth = component("OAuthApiHealth").map_err(str::to_owned);
        let auth = auth.and_then(|auth| ping(&auth, &self.auth_url, "OAUTH_ENDPOINT_URL"));
        let api = component("communityApiHealth").map_err(str::to_owned);
        let api = api.and_then(|api| ping(&api, &self.community_url, "COMMUNITY_ENDPOINT_URL"));
        let topic = component("probationevents-health").map_err(str::to_owned);
        let topic = topic.and_then(|topic| self.topic(&topic, holder));
        // What has failed already is not told twice.
        let (acceptance, offender) = match offender {
            _ if api.is_err() || token.is_err() => (None, None),
            None => (Some(self.acceptance().await), None),
            Some(offender) => (
                Some(self.acceptance().await),
                Some(self.offender(offender).await),
            ),
        };
        let token = token.map_err(|error| error.cause);
        [
            ("configuration", Some(Ok(self.configuration()))),
            ("hmpps-auth", Some(auth)),
            ("token", Some(token.and_then(|token| roles(&token)))),
            ("community-api", Some(api)),
            ("acceptance", acceptance),
            ("offender", offender),
            ("topic", Some(topic)),
            ("insights", Some(insights)),
        ]
        .into_iter()
        .filter_map(|(what, outcome)| outcome.map(|outcome| Finding { what, outcome }))
        .collect()
    }

    fn configuration(&self) -> String {
        let complete = "complete; `config` shows it".to_owned();
        self.warnings
            .iter()
            .fold(complete, |text, warning| format!("{text}; {warning}"))
    }

    /// Asks for an offender that does not exist. That changes nothing, and needs a token that community-api trusts.
    async fn acceptance(&self) -> Result<String, String> {
        let accepted = self.is_visible(OffenderId(0)).await;
        accepted.map(|_| "community-api accepts the token".to_owned())
    }

    /// Asks for the identifiers of an offender, as the service does before it publishes.
    async fn offender(&self, offender: OffenderId) -> Result<String, String> {
        if self.is_visible(offender).await? {
            return Ok(format!(
                "community-api has identifiers for offender {offender}"
            ));
        }
        Err(format!(
            "identifiers answered 404: offender {offender} is not visible to community-api, so its rows will \
             be marked as permanently failed; ask the community-api team why"
        ))
    }

    async fn is_visible(&self, offender: OffenderId) -> Result<bool, String> {
        let answer = timeout(self.call_timeout, self.updates.identifiers(offender)).await;
        let answer = answer.unwrap_or_else(|_| {
            let error = CallError::no_answer_within(self.call_timeout, CALL_TIMEOUT);
            let cause = format!("identifiers: {}", error.cause);
            Err(CallError { cause, ..error })
        });
        match answer {
            Ok(identifiers) => Ok(identifiers.is_some()),
            Err(error) => Err(format!("{}: {}", error.cause, question(error.kind))),
        }
    }

    async fn holder(&self) -> Result<String, String> {
        match &self.identity {
            None => Ok("the keys are LocalStack's dummies".to_owned()),
            Some(identity) => match timeout(self.call_timeout, identity.arn()).await {
                Ok(Ok(arn)) => Ok(format!("the credentials are those of {arn}")),
                Err(_) => Err(format!("STS: no answer within {:?}", self.call_timeout)),
                Ok(Err(error)) => Err(format!("whose the credentials are is not known: {error}")),
            },
        }
    }

    async fn insights(&self) -> Result<String, String> {
        let Some(insights) = &self.insights else {
            let off =
                "Application Insights is off: APPLICATIONINSIGHTS_CONNECTION_STRING is not set";
            return Ok(off.to_owned());
        };
        let endpoint = &insights.endpoint;
        match export::try_endpoint(insights).await {
            Ok(()) => Ok(format!(
                "{endpoint} answers; whether it knows the key shows only when something is sent"
            )),
            Err(error) => Err(format!(
                "{endpoint}: {error}; is APPLICATIONINSIGHTS_CONNECTION_STRING right, and may it be reached from here?"
            )),
        }
    }

    fn topic(
        &self,
        component: &Component,
        holder: Result<String, String>,
    ) -> Result<String, String> {
        let arn = detail(component, "topicArn");
        if component.status == Status::Up {
            return Ok(format!(
                "{arn} has {} confirmed subscriptions and {} pending; {}; whether they may publish shows only when \
                 something is published",
                detail(component, "subscriptionsConfirmed"),
                detail(component, "subscriptionsPending"),
                holder.unwrap_or_else(|unknown| unknown),
            ));
        }
        let error = detail(component, "error");
        let told = TOPIC_ADVICE.iter().find(|(sign, _)| error.contains(sign));
        let advice = match (&self.localstack_url, told) {
            (_, Some((_, advice))) => (*advice).to_owned(),
            (Some(url), None) => format!("does LocalStack run at {url} (HMPPS_SQS_LOCALSTACKURL)?"),
            (None, None) => "can SNS be reached from here?".to_owned(),
        };
        let holder = holder.map_or_else(|_| String::new(), |holder| format!("{holder}; "));
        Err(format!("{arn}: {error}; {holder}{advice}"))
    }
}

/// What to ask next about identifiers that fail like this.
fn question(kind: CallErrorKind) -> &'static str {
    match kind {
        CallErrorKind::TokenRefused => "does community-api trust this hmpps-auth?",
        CallErrorKind::Unauthorised => "has the token ROLE_COMMUNITY?",
        _ => "are community-api and its database well, and what does its log say?",
    }
}

fn detail<'a>(component: &'a Component, name: &str) -> &'a str {
    component
        .details
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn ping(component: &Component, url: &str, variable: &str) -> Result<String, String> {
    if component.status == Status::Up {
        return Ok(format!("{url} answers its ping"));
    }
    let error = detail(component, "error");
    Err(format!(
        "{url}/health/ping: {error}; is {variable} right, is it up, and may it be reached from here?"
    ))
}

fn roles(token: &Token) -> Result<String, String> {
    let Some(held) = token.roles() else {
        return Ok("issued; it is not a JWT, so its roles are not known".to_owned());
    };
    let missing: Vec<_> = ROLES
        .iter()
        .filter(|(role, _)| !held.iter().any(|held| held == role))
        .map(|(role, purpose)| format!("{role} ({purpose})"))
        .collect();
    if missing.is_empty() {
        let [(first, _), (second, _)] = ROLES;
        Ok(format!("issued, with {first} and {second}"))
    } else {
        Err(format!(
            "issued, but it lacks {}; have that added to the client in hmpps-auth",
            missing.join(" and ")
        ))
    }
}
