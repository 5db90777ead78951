//! The SNS topic over the AWS SDK: the form of a message, and when it counts as published. No type of the SDK leaves
//! this room.

mod errors;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sns::Client;
use aws_sdk_sns::config::{Builder, Config, IdentityCache, SharedIdentityCache};
use aws_sdk_sns::error::{BuildError, ProvideErrorMetadata};
use aws_sdk_sns::operation::publish_batch::PublishBatchOutput;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::errors::{call_error, code_label, entry_error};
use crate::calls::{Call, CallName};
use crate::event::Event;
use crate::http::sdk::caught;
use crate::metrics::Metrics;
use crate::outcome::Dependency;
use crate::ports::{CallError, CallErrorKind, Topic};

const PUBLISH: CallName = CallName {
    dependency: Dependency::Sns,
    call: "publish",
    route: "PublishBatch",
};
/// Error codes for credentials that have expired or are unknown.
const OUTDATED_CREDENTIALS: [&str; 3] =
    ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient"];
/// Credentials are fetched at most this often.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(10);
/// If a topic has accepted a message within this time, its configuration is right.
const ACCEPTED_LATELY: Duration = Duration::from_mins(10);

/// A client of one topic. It makes each call once.
#[derive(Debug)]
pub struct SnsTopic {
    config: Config,
    sns: Mutex<Client>,
    limit: Duration,
    arn: String,
    traceparent: bool,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

/// A cache of credentials with a shorter time limit than a publish. So late credentials fail a publish before it is
/// sent, and it does not count as a lost answer: what was never sent cannot be on the topic.
fn empty_cache(limit: Duration) -> SharedIdentityCache {
    IdentityCache::lazy().load_timeout(limit * 4 / 5).build()
}

#[derive(Debug, Default)]
struct State {
    last_accepted: Option<Instant>,
    last_credentials: Option<Instant>,
}

impl SnsTopic {
    /// A client for the topic with this ARN. `limit` is the time limit of a publish.
    pub fn new(sns: Builder, arn: String, limit: Duration, metrics: Arc<Metrics>) -> Self {
        let config = sns.identity_cache(empty_cache(limit)).build();
        Self {
            sns: Mutex::new(Client::from_conf(config.clone())),
            limit,
            config,
            arn,
            traceparent: false,
            metrics,
            state: Mutex::default(),
        }
    }

    /// If `traceparent` is true, messages carry the operation's `traceparent`.
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

    /// The SDK keeps credentials for hours, even if SNS refuses them. This discards them.
    fn discard_credentials(&self) {
        let now = Instant::now();
        let last = &mut self.state.lock().last_credentials;
        if last.is_none_or(|last| now.duration_since(last) >= CREDENTIALS_PAUSE) {
            *last = Some(now);
            let fresh = empty_cache(self.limit);
            let config = self.config.to_builder().identity_cache(fresh);
            *self.sns.lock() = Client::from_conf(config.build());
        }
    }

    /// What a refusal means. While the topic accepts other messages, the refusal is about this message. Otherwise it is
    /// about the topic or the configuration (a FIFO topic, another account's ARN), and no row is at fault.
    fn judged(&self, error: CallError) -> CallError {
        let last = self.state.lock().last_accepted;
        let is_well = last.is_some_and(|last| last.elapsed() < ACCEPTED_LATELY);
        if error.kind == CallErrorKind::Refused && !is_well {
            CallError {
                kind: CallErrorKind::Unavailable,
                cause: format!(
                    "{}; this topic has accepted nothing from this pod in the last 10 minutes: check its ARN and type",
                    error.cause
                ),
                ..error
            }
        } else {
            error
        }
    }

    /// The ARN from the configuration.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    fn topic_name(&self) -> &str {
        self.arn.rsplit(':').next().unwrap_or_default()
    }

    /// Requests the topic's attributes, which publishes nothing.
    pub(crate) async fn attributes(&self) -> Result<HashMap<String, String>, CallError> {
        let request = self.sns().get_topic_attributes().topic_arn(&self.arn);
        let answer = caught(request.send()).await.map_err(panicked)?;
        let answer = answer.map_err(|error| call_error(&error))?;
        Ok(answer.attributes.unwrap_or_default())
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
        match caught(request.send()).await.map_err(panicked)? {
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
                    self.discard_credentials();
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
        let call = Call::start(&self.metrics, PUBLISH, self.topic_name());
        let traceparent = call.traceparent().filter(|_| self.traceparent);
        let traceparent = traceparent.as_ref().map(|(_, value)| value.as_str());
        let answers = self.publish_batch(events, traceparent).await;
        let error = match &answers {
            Ok(answers) => answers.iter().find_map(|answer| answer.as_ref().err()),
            Err(error) => Some(error),
        };
        call.ended(error);
        answers
    }
}

fn panicked(cause: &str) -> CallError {
    CallError::new(CallErrorKind::Unauthorised, format!("SNS: {cause}"))
}

fn entry(
    index: usize,
    event: &Event,
    traceparent: Option<&str>,
) -> Result<PublishBatchRequestEntry, BuildError> {
    // The types are those of the service's predecessor. Subscribers may rely on them.
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

/// An event counts as published only if its entry has a message id. The string is the metric's label `result`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_message_id_is_not_published() {
        use aws_sdk_sns::types::{BatchResultErrorEntry, PublishBatchResultEntry as Accepted};
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
