//! The `check` subcommand: would the service work in this environment? Nothing is claimed and nothing is published.

use std::fmt;

use serde_json::Value;
use tokio::time::timeout;

use crate::community_api::CommunityApi;
use crate::config::{CALL_TIMEOUT, Settings};
use crate::health::{Component, Health, Status};
use crate::identity;
use crate::insights::export;
use crate::offender_update::OffenderId;
use crate::ports::{CallErrorKind, Updates, within};
use crate::token::{Purpose, Token, TokenSource};

/// The roles that community-api wants of the token, and what for.
const ROLES: [(&str, &str); 2] = [
    ("ROLE_COMMUNITY_EVENTS", "to claim and settle rows"),
    ("ROLE_COMMUNITY", "to look up identifiers"),
];

/// Advice for errors of the topic, by a part of their text.
#[rustfmt::skip]
const TOPIC_ADVICE: [(&str, &str); 6] = [
    ("NotFound", "there is no such topic: check HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN"),
    ("InvalidParameter", "no topic at this address has this ARN: check HMPPS_SQS_TOPICS_PROBATIONEVENTS_ARN"),
    ("AuthorizationError", "grant these credentials sns:GetTopicAttributes and sns:Publish on the topic"),
    ("InvalidClientTokenId", BAD_KEYS),
    ("SignatureDoesNotMatch", BAD_KEYS),
    ("credentials", "set both keys of the topic, or give the pod's service account a role"),
];
const BAD_KEYS: &str =
    "check HMPPS_SQS_TOPICS_PROBATIONEVENTS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY";

/// What `check` checks.
#[derive(Debug)]
pub struct Environment {
    /// The settings in force.
    pub settings: Settings,
    /// The same checks as those of `/health`.
    pub health: Health,
    /// Where the token comes from.
    pub tokens: TokenSource,
    /// Whether community-api accepts it.
    pub updates: CommunityApi,
    /// Who the service is to AWS. LocalStack has no identities.
    pub sts: Option<aws_sdk_sts::Client>,
}

/// One line of the output.
#[derive(Debug)]
pub struct Finding {
    /// What was checked.
    pub what: &'static str,
    /// What was found, or what is wrong and what to do about it.
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
    /// Checks everything, and changes nothing. With an offender, it also requests the offender's identifiers.
    pub async fn findings(&self, offender: Option<OffenderId>) -> Vec<Finding> {
        let (report, token, holder, insights) = tokio::join!(
            self.health.report(),
            self.tokens.get(Purpose::Claim),
            self.holder(),
            self.insights()
        );
        let mut components = report.map(|report| report.components).unwrap_or_default();
        let mut component = |name| {
            components
                .remove(name)
                .ok_or("the check did not finish: report this as a bug")
        };
        let auth = component("OAuthApiHealth").map_err(str::to_owned);
        let auth = auth.and_then(|auth| ping(&auth, &self.settings.auth_url, "OAUTH_ENDPOINT_URL"));
        let api = component("communityApiHealth").map_err(str::to_owned);
        let api =
            api.and_then(|api| ping(&api, &self.settings.community_url, "COMMUNITY_ENDPOINT_URL"));
        let topic = component("probationevents-health").map_err(str::to_owned);
        let topic = topic.and_then(|topic| self.topic(&topic, holder));
        // Report no failure twice.
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
        let warnings = self.settings.warnings.iter();
        warnings.fold(complete, |text, warning| format!("{text}; {warning}"))
    }

    /// Requests an offender that does not exist. That changes nothing, and needs a token that community-api trusts.
    async fn acceptance(&self) -> Result<String, String> {
        let accepted = self.is_visible(OffenderId(0)).await;
        accepted.map(|_| "community-api accepts the token".to_owned())
    }

    /// Requests the identifiers of an offender, as the service does before it publishes.
    async fn offender(&self, offender: OffenderId) -> Result<String, String> {
        if self.is_visible(offender).await? {
            return Ok(format!(
                "community-api has identifiers for offender {}",
                offender.0
            ));
        }
        Err(format!(
            "identifiers answered 404: offender {} is not visible to community-api, so its rows will \
             be marked as permanently failed; ask the community-api team why",
            offender.0
        ))
    }

    async fn is_visible(&self, offender: OffenderId) -> Result<bool, String> {
        let limit = self.settings.poller.call_timeout;
        let identifiers = self.updates.identifiers(offender);
        match within(limit, CALL_TIMEOUT, identifiers).await {
            Ok(identifiers) => Ok(identifiers.is_some()),
            Err(error) => Err(format!("{}: {}", error.cause, advice(error.kind))),
        }
    }

    async fn holder(&self) -> Result<String, String> {
        let Some(sts) = &self.sts else {
            return Ok("the keys are LocalStack's dummy keys".to_owned());
        };
        let limit = self.settings.poller.call_timeout;
        match timeout(limit, identity::arn(sts)).await {
            Ok(Ok(arn)) => Ok(format!("the credentials belong to {arn}")),
            Ok(Err(error)) => Err(format!(
                "the owner of the credentials is not known: {error}"
            )),
            Err(_) => Err(format!("STS: no answer within {limit:?}")),
        }
    }

    async fn insights(&self) -> Result<String, String> {
        let Some(insights) = &self.settings.insights else {
            let off =
                "Application Insights is off: APPLICATIONINSIGHTS_CONNECTION_STRING is not set";
            return Ok(off.to_owned());
        };
        let endpoint = &insights.endpoint;
        match export::try_endpoint(insights).await {
            Ok(()) => Ok(format!(
                "{endpoint} answers; this check cannot show whether it accepts the key"
            )),
            Err(error) => Err(format!(
                "{endpoint}: {error}; check APPLICATIONINSIGHTS_CONNECTION_STRING, and whether the endpoint can be \
                 reached from here"
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
                "{arn}; confirmed subscriptions: {}, pending: {}; {}; this check cannot show whether the credentials may publish",
                detail(component, "subscriptionsConfirmed"),
                detail(component, "subscriptionsPending"),
                holder.unwrap_or_else(|unknown| unknown),
            ));
        }
        let error = detail(component, "error");
        let known = TOPIC_ADVICE.iter().find(|(sign, _)| error.contains(sign));
        let topic = &self.settings.topic;
        let localstack = topic.endpoint.as_ref().filter(|_| topic.is_localstack);
        let advice = match (localstack, known) {
            (_, Some((_, advice))) => (*advice).to_owned(),
            (Some(url), None) => {
                format!("check that LocalStack runs at {url} (HMPPS_SQS_LOCALSTACKURL)")
            }
            (None, None) => "check that SNS can be reached from here".to_owned(),
        };
        let holder = holder.map_or_else(|_| String::new(), |holder| format!("{holder}; "));
        Err(format!("{arn}: {error}; {holder}{advice}"))
    }
}

/// What to do about identifiers calls that fail like this.
fn advice(kind: CallErrorKind) -> &'static str {
    match kind {
        CallErrorKind::TokenRefused => "check that community-api trusts this hmpps-auth",
        CallErrorKind::Unauthorised => "check that the client has ROLE_COMMUNITY",
        _ => "check community-api, its database and its log",
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
        return Ok(format!("{url} answers the ping"));
    }
    let error = detail(component, "error");
    Err(format!(
        "{url}/health/ping: {error}; check {variable}, whether the service is up, and whether it can be reached from \
         here"
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
            "issued, but it lacks {}; add it to the client in hmpps-auth",
            missing.join(" and ")
        ))
    }
}
