//! The messages that a subscriber receives, from the sandbox's topic or from an SQS queue. Only the latest are kept.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{self, TimeZone};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::claimed_rows::ClaimedRows;
use crate::topic::{Message, Topic};

const MOST_MESSAGES: usize = 200;
/// How many messages' ids are remembered, so that a redelivery after a lock of ten minutes is recognised.
const MOST_IDS: usize = 10_000;
/// The two events of one change are sent together, so their `timestamp` differs by less than this.
const SENT_TOGETHER_MILLISECONDS: i64 = 50;
static LONDON: TimeZone = tz::get!("Europe/London");

/// A message that has arrived.
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) message: Message,
    /// Its `id` has been seen before.
    pub(super) redelivered: bool,
}

/// Clones share their state.
#[derive(Clone, Default)]
pub(super) struct Inbox {
    kept: Arc<Mutex<Kept>>,
    claimed_rows: ClaimedRows,
}

#[derive(Default)]
struct Kept {
    arrivals: VecDeque<Arrival>,
    message_ids: Seen,
    ids: Seen,
    /// What is currently wrong with the queue.
    trouble: Option<String>,
}

#[derive(Default)]
struct Seen {
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Seen {
    /// Whether the id is new.
    fn insert(&mut self, id: &str) -> bool {
        let is_new = self.known.insert(id.to_owned());
        if is_new {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > MOST_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        is_new
    }
}

impl Inbox {
    pub(super) fn new(claimed_rows: ClaimedRows) -> Self {
        Self {
            claimed_rows,
            ..Self::default()
        }
    }

    pub(super) fn take_in(&self, message: Message) {
        let mut kept = self.kept.lock();
        // The queue returns a message again if it could not be deleted there.
        if !kept.message_ids.insert(&message.message_id) {
            return;
        }
        let redelivered = !kept
            .ids
            .insert(attribute(&message, "id").unwrap_or(&message.message_id));
        let about = About::read(&message);
        // The generic event says neither of which record it is nor when that was changed.
        let is_specific = about.source_id.is_some() || about.changed.is_some();
        if let (Some(offender), true) = (about.offender, is_specific) {
            self.claimed_rows
                .published(offender, about.source_id, message.received_at);
        }
        kept.arrivals.push_back(Arrival {
            message,
            redelivered,
        });
        if kept.arrivals.len() > MOST_MESSAGES {
            kept.arrivals.pop_front();
        }
    }

    /// The kept messages, latest first.
    pub(super) fn latest(&self) -> Vec<Arrival> {
        self.kept.lock().arrivals.iter().rev().cloned().collect()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.kept.lock().trouble.clone()
    }

    fn note(&self, trouble: Option<String>) {
        self.kept.lock().trouble = trouble;
    }

    /// Receives what the topic publishes, until it is dropped.
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

    /// Receives what arrives in the queue, and then deletes it there, until it is dropped.
    pub(super) async fn follow_queue(self, queue: Queue) {
        loop {
            let trouble = self.empty(&queue).await.err();
            let failed = trouble.is_some();
            self.note(trouble.map(|error| format!("{error:#}")));
            if failed {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }

    /// Receives some messages, and deletes each. If one cannot be deleted, that is an error, but the others are still
    /// deleted.
    async fn empty(&self, queue: &Queue) -> Result<()> {
        let received = queue.receive().await?;
        for (message, _) in &received {
            self.take_in(message.clone());
        }
        let mut result = Ok(());
        for (_, receipt) in &received {
            result = result.and(queue.delete(receipt).await);
        }
        result
    }
}

/// An SQS queue of LocalStack, over SQS' own JSON protocol. LocalStack checks no signatures, and reads only the region
/// from the credentials.
pub(super) struct Queue {
    url: String,
    http: reqwest::Client,
}

const CREDENTIALS: &str = "AWS4-HMAC-SHA256 Credential=test/20200101/eu-west-2/sqs/aws4_request, SignedHeaders=host, Signature=none";

impl Queue {
    pub(super) fn new(url: String, http: reqwest::Client) -> Self {
        Self { url, http }
    }

    /// Messages, each with the receipt that deletes it.
    async fn receive(&self) -> Result<Vec<(Message, Value)>> {
        let wanted = json!({"QueueUrl": self.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 5, "MessageAttributeNames": ["All"]});
        let answer = self.call("ReceiveMessage", &wanted).await?;
        let received = answer["Messages"].as_array().into_iter().flatten();
        Ok(received
            .map(|received| (read_message(received), received["ReceiptHandle"].clone()))
            .collect())
    }

    async fn delete(&self, receipt: &Value) -> Result<()> {
        let done = json!({"QueueUrl": self.url, "ReceiptHandle": receipt});
        self.call("DeleteMessage", &done).await.map(drop)
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
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| {
            format!("SQS answers {action} with something that is not JSON: {text:.200}")
        })
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

/// Seconds from the change in Delius to the arrival, like the service's age of a row. The generic event does not say
/// when the change was, so the time of the event sent with it is used.
pub(super) fn seconds_since_change(message: &Message, all: &[Arrival]) -> Option<f64> {
    let about = About::read(message);
    let changed = about.changed.or_else(|| {
        let sent = sent_at(message)?;
        all.iter()
            .filter(|other| {
                sent_at(&other.message)
                    .is_some_and(|at| (at - sent).abs() < SENT_TOGETHER_MILLISECONDS)
            })
            .map(|other| About::read(&other.message))
            .find(|other| other.offender == about.offender && other.changed.is_some())?
            .changed
    })?;
    Some(age(changed, message.received_at))
}

/// In the hour that occurs twice when summer time ends, the smallest age that is not negative.
fn age(changed: DateTime, at: Timestamp) -> f64 {
    let readings = LONDON.to_ambiguous_timestamp(changed);
    let ages = [readings.later(), readings.earlier()]
        .into_iter()
        .flatten()
        .map(|changed| at.duration_since(changed).as_secs_f64());
    ages.filter(|age| *age >= 0.0)
        .reduce(f64::min)
        .unwrap_or(0.0)
}

fn sent_at(message: &Message) -> Option<i64> {
    attribute(message, "timestamp")?.parse().ok()
}

/// What a message says about the change.
struct About {
    offender: Option<i64>,
    source_id: Option<i64>,
    /// In London.
    changed: Option<DateTime>,
}

impl About {
    fn read(message: &Message) -> Self {
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        let changed = body["eventDatetime"].as_str();
        Self {
            offender: body["offenderId"].as_i64(),
            source_id: body["sourceId"].as_i64(),
            changed: changed.and_then(|text| text.parse().ok()),
        }
    }
}

/// The time of day in London, with the name of its zone.
pub(super) fn time_of_day(at: Timestamp) -> String {
    at.to_zoned_datetime(LONDON.clone())
        .strftime("%H:%M:%S %Z")
        .to_string()
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::StatusCode;

    use super::*;

    fn message(id: &str, body: &str, sent: i64) -> Message {
        let attributes = [
            ("id", "String", id.to_owned()),
            ("timestamp", "Number", sent.to_string()),
        ];
        Message {
            message_id: uuid::Uuid::new_v4().to_string(),
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
    fn a_repeated_id_is_a_redelivery() {
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
    fn both_events_of_a_change_have_its_age() {
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
    fn in_the_repeated_hour_the_age_is_the_smallest_possible() {
        // London's clocks go back at 01:00 UTC.
        for (arrived, seconds) in [
            ("2026-10-25T00:30:05Z", 5.0),
            ("2026-10-25T01:30:05Z", 5.0),
            ("2026-10-25T01:29:00Z", 3_540.0),
            ("2026-10-25T00:29:59Z", 0.0),
        ] {
            let changed = "2026-10-25T01:30:00".parse().unwrap();
            let age = age(changed, arrived.parse().unwrap());
            assert!((age - seconds).abs() < 1e-9, "{arrived}: {age}");
        }
        assert_eq!(
            time_of_day("2026-10-25T00:30:05Z".parse().unwrap()),
            "01:30:05 BST"
        );
        assert_eq!(
            time_of_day("2026-10-25T01:30:05Z".parse().unwrap()),
            "01:30:05 GMT"
        );
    }

    /// SQS with two messages. The first is never deleted, and so is received again.
    fn stubborn_queue(body: &Bytes, received: &Mutex<Vec<String>>) -> Result<String, StatusCode> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = |id: &str| json!({"MessageId": id, "Body": "{}", "ReceiptHandle": id});
        let Some(receipt) = asked["ReceiptHandle"].as_str() else {
            let first = json!({"Messages": [message("a"), message("b")]});
            return Ok(first.to_string());
        };
        received.lock().push(receipt.to_owned());
        if receipt == "a" {
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        } else {
            Ok(String::new())
        }
    }

    #[tokio::test]
    async fn an_undeletable_message_is_shown_once_and_loses_no_other() {
        let receipts = Arc::<Mutex<Vec<String>>>::default();
        let seen = receipts.clone();
        let router = axum::Router::new().route(
            "/",
            axum::routing::post(async move |body: Bytes| stubborn_queue(&body, &seen)),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(crate::http::accept(listener, move |stream| {
            crate::page::serve_connection(stream, router.clone())
        }));
        let (inbox, queue) = (Inbox::default(), Queue::new(url, reqwest::Client::new()));
        for _ in 0..2 {
            let error = inbox.empty(&queue).await.unwrap_err();
            assert!(format!("{error:#}").contains("DeleteMessage"), "{error:#}");
            assert_eq!(inbox.latest().len(), 2);
        }
        assert_eq!(*receipts.lock(), ["a", "b", "a", "b"]);
        assert!(inbox.latest().iter().all(|arrival| !arrival.redelivered));
        server.abort();
    }

    #[test]
    fn messages_are_read_with_and_without_the_sns_envelope() {
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
