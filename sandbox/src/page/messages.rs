//! The messages as a subscriber gets them, from the sandbox's own topic or from an SQS queue; only the latest are kept.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{self, TimeZone};
use serde_json::{Value, json};

use crate::locked;
use crate::topic::{Message, Topic};

const MOST_MESSAGES: usize = 200;
/// Of so many messages the ids are remembered, so that a redelivery after a lock of ten minutes is still seen.
const MOST_IDS: usize = 10_000;
/// The two events of one change are sent together, so that their `timestamp` differs by less than this.
const SENT_TOGETHER_MILLISECONDS: i64 = 50;
static LONDON: TimeZone = tz::get!("Europe/London");

/// A message that has arrived.
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) message: Message,
    /// Its `id` has been seen before.
    pub(super) redelivered: bool,
}

/// A clone shares the messages.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    arrivals: VecDeque<Arrival>,
    ids: VecDeque<String>,
    known_ids: HashSet<String>,
    /// Why no messages can be had at present.
    trouble: Option<String>,
}

impl Inbox {
    pub(super) fn take_in(&self, message: Message) {
        let mut kept = locked(&self.0);
        let id = attribute(&message, "id")
            .unwrap_or(&message.message_id)
            .to_owned();
        let redelivered = !kept.known_ids.insert(id.clone());
        if !redelivered {
            kept.ids.push_back(id);
        }
        if kept.ids.len() > MOST_IDS
            && let Some(oldest) = kept.ids.pop_front()
        {
            kept.known_ids.remove(&oldest);
        }
        kept.arrivals.push_back(Arrival {
            message,
            redelivered,
        });
        if kept.arrivals.len() > MOST_MESSAGES {
            kept.arrivals.pop_front();
        }
    }

    /// Those kept, the latest first.
    pub(super) fn latest(&self) -> Vec<Arrival> {
        locked(&self.0).arrivals.iter().rev().cloned().collect()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        locked(&self.0).trouble.clone()
    }

    fn note(&self, trouble: Option<String>) {
        locked(&self.0).trouble = trouble;
    }

    /// Takes in what the topic publishes, until it is dropped.
    pub(super) async fn follow_topic(self, topic: Topic) {
        let mut published = topic.subscribe();
        let mut last = 0;
        loop {
            for message in topic.messages_after(last) {
                last = message.sequence;
                self.take_in(message);
            }
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes in what arrives in the queue, and deletes it there, until it is dropped.
    pub(super) async fn follow_queue(self, queue: Queue) {
        loop {
            match queue.receive().await {
                Ok(messages) => {
                    self.note(None);
                    for message in messages {
                        self.take_in(message);
                    }
                }
                Err(error) => {
                    self.note(Some(format!("{error:#}")));
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }
}

/// An SQS queue of LocalStack, asked in SQS' own JSON protocol. LocalStack checks no signatures; from the credentials it takes the region.
pub(super) struct Queue {
    url: String,
    http: reqwest::Client,
}

const CREDENTIALS: &str = "AWS4-HMAC-SHA256 Credential=test/20200101/eu-west-2/sqs/aws4_request, SignedHeaders=host, Signature=none";

impl Queue {
    pub(super) fn new(url: String, http: reqwest::Client) -> Self {
        Self { url, http }
    }

    async fn receive(&self) -> Result<Vec<Message>> {
        let wanted = json!({"QueueUrl": self.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 5, "MessageAttributeNames": ["All"]});
        let answer = self.call("ReceiveMessage", &wanted).await?;
        let mut messages = Vec::new();
        for received in answer["Messages"].as_array().into_iter().flatten() {
            messages.push(read_message(received));
            let done = json!({"QueueUrl": self.url, "ReceiptHandle": received["ReceiptHandle"]});
            self.call("DeleteMessage", &done).await?;
        }
        Ok(messages)
    }

    async fn call(&self, action: &str, body: &Value) -> Result<Value> {
        let answer = self
            .http
            .post(&self.url)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .header("authorization", CREDENTIALS)
            .timeout(Duration::from_secs(10))
            .body(body.to_string())
            .send()
            .await
            .with_context(|| format!("SQS does not answer {action}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(
            status.is_success(),
            "SQS answers {action} with {status}: {text:.200}"
        );
        // The answer to DeleteMessage is empty.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

/// A message in SNS' envelope, or a raw one.
fn read_message(received: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let envelope: Value = serde_json::from_str(&text(&received["Body"])).unwrap_or_default();
    let enveloped = envelope["Type"] == "Notification";
    let (id, body, attributes) = if enveloped {
        (
            &envelope["MessageId"],
            &envelope["Message"],
            &envelope["MessageAttributes"],
        )
    } else {
        (
            &received["MessageId"],
            &received["Body"],
            &received["MessageAttributes"],
        )
    };
    let (type_key, value_key) = if enveloped {
        ("Type", "Value")
    } else {
        ("DataType", "StringValue")
    };
    Message {
        message_id: text(id),
        sequence: 0,
        body: text(body),
        attributes: attributes
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                (
                    name.clone(),
                    (text(&value[type_key]), text(&value[value_key])),
                )
            })
            .collect(),
        received_at: Timestamp::now(),
        subject: envelope["Subject"].as_str().map(str::to_owned),
    }
}

pub(super) fn attribute<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message
        .attributes
        .get(name)
        .map(|(_, value)| value.as_str())
}

/// Seconds from the change in Delius to the arrival. The generic event does not say when the change was: then it is the
/// change of the event that was sent together with it.
pub(super) fn seconds_since_change(message: &Message, all: &[Arrival]) -> Option<f64> {
    let (offender, changed) = what_changed(message);
    let changed = changed.or_else(|| {
        let sent = sent_at(message)?;
        all.iter()
            .filter(|other| {
                sent_at(&other.message)
                    .is_some_and(|at| (at - sent).abs() < SENT_TOGETHER_MILLISECONDS)
            })
            .map(|other| what_changed(&other.message))
            .find(|other| other.0 == offender && other.1.is_some())?
            .1
    })?;
    Some(message.received_at.duration_since(changed).as_secs_f64())
}

fn sent_at(message: &Message) -> Option<i64> {
    attribute(message, "timestamp")?.parse().ok()
}

fn what_changed(message: &Message) -> (Option<i64>, Option<Timestamp>) {
    let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
    let changed = body["eventDatetime"]
        .as_str()
        .and_then(|text| text.parse::<DateTime>().ok());
    let changed = changed.and_then(|local| LONDON.to_timestamp(local).ok());
    (body["offenderId"].as_i64(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, body: &str, sent: i64) -> Message {
        let attributes = [
            ("id", "String", id.to_owned()),
            ("timestamp", "Number", sent.to_string()),
        ];
        Message {
            message_id: "m".into(),
            sequence: 1,
            body: body.into(),
            attributes: attributes
                .into_iter()
                .map(|(name, data_type, value)| (name.to_owned(), (data_type.to_owned(), value)))
                .collect(),
            received_at: "2020-07-19T12:56:47.5Z".parse().unwrap(),
            subject: None,
        }
    }

    #[test]
    fn a_repeated_id_is_a_redelivery_and_only_the_latest_messages_are_kept() {
        let inbox = Inbox::default();
        for number in 0..=MOST_MESSAGES {
            inbox.take_in(message(&number.to_string(), "{}", 0));
        }
        inbox.take_in(message("0", "{}", 0));
        let latest = inbox.latest();
        assert_eq!(latest.len(), MOST_MESSAGES);
        assert!(
            latest[0].redelivered,
            "although the first of them is no longer kept"
        );
        assert!(latest[1..].iter().all(|arrival| !arrival.redelivered));
    }

    #[test]
    fn both_events_of_a_change_say_how_long_it_took() {
        let specific = message(
            "a",
            r#"{"offenderId":1,"eventDatetime":"2020-07-19T13:56:43"}"#,
            1000,
        );
        let generic = message("b", r#"{"offenderId":1}"#, 999);
        let others = message("c", r#"{"offenderId":2}"#, 999);
        let all: Vec<_> = [&specific, &generic, &others]
            .map(|message| Arrival {
                message: message.clone(),
                redelivered: false,
            })
            .into();
        assert_eq!(seconds_since_change(&specific, &all), Some(4.5));
        assert_eq!(seconds_since_change(&generic, &all), Some(4.5));
        assert_eq!(seconds_since_change(&others, &all), None);
    }

    #[test]
    fn messages_are_read_from_a_queue_with_and_without_the_envelope_of_sns() {
        let envelope = json!({"Type": "Notification", "MessageId": "m", "Message": "{}",
            "MessageAttributes": {"id": {"Type": "String", "Value": "x"}}});
        let raw = json!({"MessageId": "m", "Body": "{}",
            "MessageAttributes": {"id": {"DataType": "String", "StringValue": "x"}}});
        for received in [
            json!({"MessageId": "of SQS", "Body": envelope.to_string()}),
            raw,
        ] {
            let message = read_message(&received);
            assert_eq!(
                (
                    &*message.message_id,
                    &*message.body,
                    attribute(&message, "id")
                ),
                ("m", "{}", Some("x"))
            );
        }
    }
}
