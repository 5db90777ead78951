//! The SNS topic over the AWS SDK: what a message looks like there, and what SNS' error codes mean. Nothing of the SDK leaves
//! this room.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sns::Client;
use aws_sdk_sns::config::{Config, IdentityCache};
use aws_sdk_sns::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::publish_batch::PublishBatchOutput;
use aws_sdk_sns::types::{BatchResultErrorEntry, MessageAttributeValue, PublishBatchRequestEntry};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::event::Event;
use crate::http::{cause_of, printable};
use crate::insights;
use crate::metrics::Metrics;
use crate::ports::{CallError, CallErrorKind, Topic};

/// Codes that say that credentials are too old, or not known any more.
const OUTDATED_CREDENTIALS: [&str; 3] =
    ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient"];
/// Credentials are not fetched anew more often than this.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(10);
/// A topic that has accepted a message within this time is well configured.
const ACCEPTED_LATELY: Duration = Duration::from_mins(10);

/// A client of one topic.
#[derive(Debug)]
pub struct SnsTopic {
    config: Config,
    sns: Mutex<Client>,
    arn: String,
    traceparent: bool,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_accepted: Option<Instant>,
    last_credentials: Option<Instant>,
}

/// What SNS says of the topic, for the health check.
#[derive(Debug)]
pub struct TopicAttributes {
    /// The number of confirmed subscriptions.
    pub subscriptions_confirmed: String,
    /// The number of subscriptions that wait for confirmation.
    pub subscriptions_pending: String,
}

impl SnsTopic {
    /// A client for the topic with this ARN.
    #[must_use]
    pub fn new(config: Config, arn: String, metrics: Arc<Metrics>) -> Self {
        Self {
            sns: Mutex::new(Client::from_conf(config.clone())),
            config,
            arn,
            traceparent: false,
            metrics,
            state: Mutex::default(),
        }
    }

    /// The same client, whose messages carry the operation's `traceparent` if `traceparent` is true.
    #[must_use]
    pub fn with_traceparent(self, traceparent: bool) -> Self {
        Self {
            traceparent,
            ..self
        }
    }

    fn sns(&self) -> Client {
        self.sns.lock().clone()
    }

    /// The SDK keeps credentials for hours, whatever SNS says of them: leaves them behind.
    fn fetch_credentials_anew(&self) {
        let now = Instant::now();
        let last = &mut self.state.lock().last_credentials;
        if last.is_none_or(|last| now.duration_since(last) >= CREDENTIALS_PAUSE) {
            *last = Some(now);
            let fresh = IdentityCache::lazy().build();
            let config = self.config.to_builder().identity_cache(fresh);
            *self.sns.lock() = Client::from_conf(config.build());
        }
    }

    /// What a refused call means: while the topic accepts messages, the refusal is of this message. Otherwise it is of the
    /// topic or the configuration (a FIFO topic, another account's ARN), and no row is at fault.
    fn judged(&self, error: CallError) -> CallError {
        let last = self.state.lock().last_accepted;
        let is_well = last.is_some_and(|last| last.elapsed() < ACCEPTED_LATELY);
        if error.kind == CallErrorKind::Refused && !is_well {
            CallError {
                kind: CallErrorKind::Unavailable,
                cause: format!(
                    "{}; the topic has accepted nothing lately, so check its ARN and type",
                    error.cause
                ),
                ..error
            }
        } else {
            error
        }
    }

    /// The topic's ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    fn topic_name(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }

    /// Asks for the topic's attributes, which publishes nothing.
    ///
    /// # Errors
    /// In words.
    pub async fn attributes(&self) -> Result<TopicAttributes, String> {
        let answer = self
            .sns()
            .get_topic_attributes()
            .topic_arn(&self.arn)
            .send()
            .await;
        let attributes = answer
            .map_err(|error| call_error(&error).cause)?
            .attributes
            .unwrap_or_default();
        let attribute = |name| attributes.get(name).cloned().unwrap_or_default();
        Ok(TopicAttributes {
            subscriptions_confirmed: attribute("SubscriptionsConfirmed"),
            subscriptions_pending: attribute("SubscriptionsPending"),
        })
    }

    async fn publish_batch(
        &self,
        events: &[Event],
        traceparent: Option<&str>,
    ) -> Result<Vec<Result<(), CallError>>, CallError> {
        let entries = events
            .iter()
            .enumerate()
            .map(|(index, event)| entry(index, event, traceparent))
            .collect::<Result<_, _>>();
        // Only a missing id or message could fail here.
        let entries =
            entries.map_err(|error| CallError::new(CallErrorKind::Refused, error.to_string()))?;
        let request = self
            .sns()
            .publish_batch()
            .topic_arn(&self.arn)
            .set_publish_batch_request_entries(Some(entries));
        match request.send().await {
            Ok(answer) => {
                let answers: Vec<_> = (0..events.len())
                    .map(|index| {
                        let (label, answer) = entry_answer(&answer, &index.to_string());
                        self.count_results(label, 1);
                        answer
                    })
                    .collect();
                if answers.iter().any(Result::is_ok) {
                    self.state.lock().last_accepted = Some(Instant::now());
                }
                Ok(answers)
            }
            Err(error) => {
                let code = error
                    .as_service_error()
                    .and_then(ProvideErrorMetadata::code);
                self.count_results(code_label(code), events.len() as u64);
                if code.is_some_and(|code| {
                    OUTDATED_CREDENTIALS
                        .iter()
                        .any(|sign| code.starts_with(sign))
                }) {
                    self.fetch_credentials_anew();
                }
                Err(self.judged(call_error(&error)))
            }
        }
    }

    fn count_results(&self, result: &'static str, events: u64) {
        let results = &self.metrics.publish_results;
        results.with_label_values(&[result]).inc_by(events);
    }
}

impl Topic for SnsTopic {
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<(), CallError>>, CallError> {
        let timer = self.metrics.start_call("sns", "publish");
        let call = insights::start_call("sns", self.topic_name(), "PublishBatch");
        let traceparent = call.traceparent().filter(|_| self.traceparent);
        let traceparent = traceparent.as_ref().map(|(_, value)| value.as_str());
        let answers = self.publish_batch(events, traceparent).await;
        let error = match &answers {
            Ok(answers) => answers.iter().find_map(|answer| answer.as_ref().err()),
            Err(error) => Some(error),
        };
        let outcome = match error.map(|error| error.kind) {
            None => "ok",
            Some(CallErrorKind::Contended) => "contended",
            Some(CallErrorKind::Refused) => "refused",
            Some(
                CallErrorKind::NoToken | CallErrorKind::TokenRefused | CallErrorKind::Unauthorised,
            ) => "unauthorised",
            Some(CallErrorKind::AnswerLost) => "answer_lost",
            Some(CallErrorKind::Unavailable) => "failed",
        };
        timer.ended(outcome);
        let failure = error.filter(|error| error.kind != CallErrorKind::Contended);
        call.ended(outcome, failure.map(|error| error.cause.as_str()));
        answers
    }
}

fn entry(
    index: usize,
    event: &Event,
    traceparent: Option<&str>,
) -> Result<PublishBatchRequestEntry, BuildError> {
    // The types are those of the service's predecessor, whose names subscribers have come to see.
    let attributes = [
        ("eventType", "String", event.event_type.clone()),
        ("source", "String", "delius".to_owned()),
        ("id", "String", event.id.to_string()),
        (
            "contentType",
            "String",
            "text/plain;charset=UTF-8".to_owned(),
        ),
        (
            "timestamp",
            "Number.java.lang.Long",
            jiff::Timestamp::now().as_millisecond().to_string(),
        ),
    ];
    let mut entry = PublishBatchRequestEntry::builder()
        .id(index.to_string())
        .message(&event.body);
    let traceparent = traceparent.map(|value| ("traceparent", "String", value.to_owned()));
    for (name, data_type, value) in attributes.into_iter().chain(traceparent) {
        let value = MessageAttributeValue::builder()
            .data_type(data_type)
            .string_value(value)
            .build()?;
        entry = entry.message_attributes(name, value);
    }
    entry.build()
}

/// An event counts as published only if its entry came back with a message id. With the label of the answer.
fn entry_answer(answer: &PublishBatchOutput, id: &str) -> (&'static str, Result<(), CallError>) {
    if let Some(failed) = answer.failed().iter().find(|failed| failed.id() == id) {
        return (code_label(Some(failed.code())), Err(entry_error(failed)));
    }
    let accepted = answer.successful().iter().any(|entry| {
        entry.id() == Some(id)
            && entry
                .message_id()
                .is_some_and(|message_id| !message_id.is_empty())
    });
    if accepted {
        return ("accepted", Ok(()));
    }
    let error = CallError::new(
        CallErrorKind::AnswerLost,
        "publish: SNS answered without a message id",
    );
    ("no_answer", Err(error))
}

fn entry_error(failed: &BatchResultErrorEntry) -> CallError {
    CallError::new(
        meaning_of(failed.code()),
        format!(
            "publish: SNS answered {} for an event{}",
            printable(failed.code()),
            said(failed.message())
        ),
    )
}

fn call_error<E>(error: &SdkError<E>) -> CallError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            match answer.err().code() {
                Some(code) => {
                    let kind = match meaning_of(code) {
                        // It went wrong somewhere in SNS, perhaps after the events were accepted.
                        CallErrorKind::Unavailable if status >= 500 || code == "RequestTimeout" => {
                            CallErrorKind::AnswerLost
                        }
                        kind => kind,
                    };
                    let said = said(answer.err().message());
                    let code = printable(code);
                    CallError::new(kind, format!("SNS answered {status} {code}{said}"))
                }

                None if status == 429 => {
                    CallError::new(CallErrorKind::Contended, "SNS answered 429")
                }
                // Not SNS' own words, but perhaps a proxy's in front of it, or a 200 that cannot be read.
                None if !(300..500).contains(&status) => CallError::new(
                    CallErrorKind::AnswerLost,
                    format!("SNS answered {status} and nothing readable"),
                ),
                None => CallError::unavailable(format!("SNS answered {status}")),
            }
        }
        SdkError::ResponseError(_) => CallError::new(
            CallErrorKind::AnswerLost,
            "SNS gave an answer that cannot be read",
        ),
        SdkError::TimeoutError(_) => {
            CallError::new(CallErrorKind::AnswerLost, "SNS did not answer in time")
        }
        SdkError::DispatchFailure(failure) => {
            let kind = if no_credentials(error) {
                CallErrorKind::Unauthorised
            } else if failure.is_user() || never_sent(error) {
                CallErrorKind::Unavailable
            } else {
                CallErrorKind::AnswerLost
            };
            CallError::new(kind, format!("SNS: {}", cause_of(error)))
        }
        // The request could not even be made. The SDK's words for that may hold all of it.
        _ => CallError::unavailable(
            "SNS: the request could not be made; check the address of SNS and the credentials",
        ),
    }
}

/// SNS' own words, which hold nothing of the request.
fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(": {}", printable(message)))
}

fn no_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<CredentialsError>)
}

/// Whether the request failed while connecting.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| {
        error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_connect)
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What an error code of SNS means, for a whole call or an entry of a batch. Source: the API reference of SNS, Publish and
/// `PublishBatch`, and its common errors. The code alone decides: `KMSThrottling` says of itself that it is the sender's fault.
fn meaning_of(code: &str) -> CallErrorKind {
    known_code(code).map_or(CallErrorKind::Unavailable, |(_, kind)| *kind)
}

/// The code in the table.
fn known_code(code: &str) -> Option<&'static (&'static str, CallErrorKind)> {
    // Some protocols add a suffix to the same codes.
    let code = code.strip_suffix("Exception").unwrap_or(code);
    CODES.iter().find(|(known, _)| *known == code)
}

/// An error code as a metric's label, of which there must not be arbitrarily many.
fn code_label(code: Option<&str>) -> &'static str {
    match code {
        None => "no_answer",
        Some(code) => known_code(code).map_or("other", |(known, _)| known),
    }
}

/// Any other code is taken for [`CallErrorKind::Unavailable`]: it may work later.
const CODES: &[(&str, CallErrorKind)] = &[
    ("Throttled", CallErrorKind::Contended),
    ("Throttling", CallErrorKind::Contended),
    ("ThrottledRequest", CallErrorKind::Contended),
    ("RequestThrottled", CallErrorKind::Contended),
    ("RequestLimitExceeded", CallErrorKind::Contended),
    ("TooManyRequests", CallErrorKind::Contended),
    ("KMSThrottling", CallErrorKind::Contended),
    ("SlowDown", CallErrorKind::Contended),
    ("InvalidParameter", CallErrorKind::Refused),
    ("ParameterValueInvalid", CallErrorKind::Refused),
    ("InvalidParameterValue", CallErrorKind::Refused),
    ("Validation", CallErrorKind::Refused),
    ("ValidationError", CallErrorKind::Refused),
    ("BatchRequestTooLong", CallErrorKind::Refused),
    ("AuthorizationError", CallErrorKind::Unauthorised),
    ("AccessDenied", CallErrorKind::Unauthorised),
    ("InvalidSecurity", CallErrorKind::Unauthorised),
    ("InvalidClientTokenId", CallErrorKind::Unauthorised),
    ("ExpiredToken", CallErrorKind::Unauthorised),
    ("UnrecognizedClient", CallErrorKind::Unauthorised),
    ("SignatureDoesNotMatch", CallErrorKind::Unauthorised),
    ("MissingAuthenticationToken", CallErrorKind::Unauthorised),
    ("KMSAccessDenied", CallErrorKind::Unauthorised),
    ("InternalError", CallErrorKind::Unavailable),
    ("InternalFailure", CallErrorKind::Unavailable),
    ("RequestTimeout", CallErrorKind::Unavailable),
    ("ServiceUnavailable", CallErrorKind::Unavailable),
    ("NotFound", CallErrorKind::Unavailable),
    ("KMSDisabled", CallErrorKind::Unavailable),
    ("KMSInvalidState", CallErrorKind::Unavailable),
    ("KMSNotFound", CallErrorKind::Unavailable),
    ("KMSOptInRequired", CallErrorKind::Unavailable),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_mean_what_the_contract_says_whatever_their_suffix() {
        use CallErrorKind::{Contended, Refused, Unauthorised, Unavailable};
        for (codes, meaning) in [
            (
                &[
                    "Throttling",
                    "ThrottlingException",
                    "Throttled",
                    "ThrottledException",
                    "KMSThrottling",
                ][..],
                Contended,
            ),
            (
                &[
                    "InvalidParameter",
                    "ParameterValueInvalid",
                    "InvalidParameterValue",
                    "ValidationException",
                ],
                Refused,
            ),
            (
                &[
                    "BatchRequestTooLong",
                    "InvalidParameterException",
                    "BatchRequestTooLongException",
                ],
                Refused,
            ),
            (
                &[
                    "AuthorizationError",
                    "InvalidSecurity",
                    "ExpiredToken",
                    "KMSAccessDenied",
                ],
                Unauthorised,
            ),
            (
                &[
                    "InternalError",
                    "InternalErrorException",
                    "RequestTimeout",
                    "NotFound",
                    "KMSDisabled",
                ],
                Unavailable,
            ),
            (
                &[
                    "KMSNotFound",
                    "KMSInvalidState",
                    "KMSOptInRequired",
                    "ServiceUnavailable",
                    "",
                    "New",
                ],
                Unavailable,
            ),
        ] {
            for code in codes {
                assert_eq!(meaning_of(code), meaning, "{code}");
            }
        }
    }

    #[test]
    fn an_entry_without_a_message_id_is_not_published() {
        use aws_sdk_sns::types::PublishBatchResultEntry as Accepted;
        let failed = BatchResultErrorEntry::builder()
            .id("2")
            .code("Throttled")
            .sender_fault(true)
            .build()
            .unwrap();
        let answer = PublishBatchOutput::builder()
            .successful(Accepted::builder().id("0").message_id("m").build())
            .successful(Accepted::builder().id("1").message_id("").build())
            .failed(failed)
            .build();
        let kind = |id| entry_answer(&answer, id).1.map_err(|error| error.kind);
        assert_eq!(kind("0"), Ok(()));
        assert_eq!(kind("1"), Err(CallErrorKind::AnswerLost));
        assert_eq!(kind("2"), Err(CallErrorKind::Contended));
        assert_eq!(kind("3"), Err(CallErrorKind::AnswerLost));
    }
}
