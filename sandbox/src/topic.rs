//! The topic: it checks what is published as SNS does, keeps it, and lets others wait for it.

mod protocol;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Bytes;
use hyper::{Method, Request};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use self::request::{Entry, Refusal, TopicRequest};
use crate::faults::{Endpoint, Fault, Faults};
use crate::http::{Answer, Reply};

pub(crate) use self::protocol::error_reply;

/// A message as a subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The id from SNS.
    pub message_id: String,
    /// Its number among all messages published so far, from 1.
    pub sequence: u64,
    /// The message itself.
    pub body: String,
    /// Name to data type and value.
    pub attributes: BTreeMap<String, (String, String)>,
    /// When it was published.
    #[serde(serialize_with = "as_text")]
    pub received_at: Timestamp,
    /// The subject, if it has one.
    pub subject: Option<String>,
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

pub(crate) struct TopicSettings {
    pub(crate) arn: String,
    pub(crate) subscriptions_confirmed: u32,
    pub(crate) subscriptions_pending: u32,
    pub(crate) kept_messages: Option<usize>,
}

/// The topic. Clones share their state.
#[derive(Clone)]
pub struct Topic(Arc<Inner>);

struct Inner {
    settings: TopicSettings,
    kept: Mutex<VecDeque<Message>>,
    /// How many have been published so far, including those that are no longer kept.
    published: watch::Sender<u64>,
}

impl Topic {
    pub(crate) fn new(settings: TopicSettings) -> Self {
        Self(Arc::new(Inner {
            settings,
            kept: Mutex::default(),
            published: watch::Sender::new(0),
        }))
    }

    /// The ARN by which callers name the topic.
    pub fn arn(&self) -> &str {
        &self.0.settings.arn
    }

    /// The messages that are kept, in the order of publication.
    pub fn messages(&self) -> Vec<Message> {
        self.0.kept.lock().iter().cloned().collect()
    }

    /// How many messages have been published so far, including those that are no longer kept.
    pub fn len(&self) -> usize {
        usize::try_from(*self.0.published.borrow()).unwrap_or(usize::MAX)
    }

    /// Whether nothing has been published yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the messages, but not their count.
    pub fn forget(&self) {
        self.0.kept.lock().clear();
    }

    /// A receiver of [`Topic::len`], so that a caller can wait without polling.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }

    /// Waits until at least `n` messages have been published, and returns those that are kept.
    pub async fn wait_for(&self, n: usize, within: Duration) -> Result<Vec<Message>> {
        let wanted = u64::try_from(n)?;
        let mut published = self.subscribe();
        tokio::time::timeout(within, published.wait_for(|count| *count >= wanted))
            .await
            .with_context(|| format!("{} of {n} messages after {within:?}", self.len()))??;
        Ok(self.messages())
    }

    pub(crate) fn messages_after(&self, sequence: u64) -> Vec<Message> {
        let kept = self.0.kept.lock();
        let first = kept.partition_point(|message| message.sequence <= sequence);
        kept.range(first..).cloned().collect()
    }

    fn publish(&self, entry: Entry) -> String {
        let message_id = Uuid::new_v4().to_string();
        let mut kept = self.0.kept.lock();
        // Counted while the messages are locked, so that a caller who sees the count finds the message.
        self.0.published.send_modify(|published| {
            *published += 1;
            kept.push_back(Message {
                message_id: message_id.clone(),
                sequence: *published,
                body: entry.message,
                attributes: entry
                    .attributes
                    .into_iter()
                    .map(|(name, value)| (name, value.into_pair()))
                    .collect(),
                received_at: Timestamp::now(),
                subject: entry.subject,
            });
            if self
                .0
                .settings
                .kept_messages
                .is_some_and(|limit| kept.len() > limit)
            {
                kept.pop_front();
            }
        });
        message_id
    }

    pub(crate) async fn answer(self, faults: Faults, request: Request<Bytes>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/") => self.answer_sns(faults, request.body()).await,
            (&Method::GET, "/messages") => {
                let query = request.uri().query().unwrap_or_default();
                let after =
                    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "after");
                let after = after
                    .and_then(|(_, sequence)| sequence.parse().ok())
                    .unwrap_or(0);
                Ok(Reply::json(200, &self.messages_after(after)))
            }
            (&Method::GET, "/health") => Ok(Reply::json(200, &json!({"status": "UP"}))),
            _ => Ok(error_reply(404, "NotFound", "No such resource")),
        }
    }

    async fn answer_sns(self, faults: Faults, body: &[u8]) -> Answer {
        let request = TopicRequest::read(body);
        let endpoint = match &*request.action {
            "Publish" => Endpoint::Publish,
            "PublishBatch" => Endpoint::PublishBatch,
            "GetTopicAttributes" => Endpoint::TopicAttributes,
            // STS is another service. Only the sandbox has it at this address.
            "GetCallerIdentity" => return Ok(protocol::identity_reply()),
            action => {
                let message = format!("The action {action} is not valid for this endpoint");
                return Ok(error_reply(400, "InvalidAction", &message));
            }
        };
        let call = faults.receive(endpoint, |offender| {
            request.entries.iter().any(|entry| entry.concerns(offender))
        });
        if let Some(Fault::SnsError { status, code }) = &call.fault {
            let reply = error_reply(*status, code, "Injected fault");
            return call.carry_out(async move { reply }).await;
        }
        let entry_fault = EntryFault::read(call.fault.as_ref(), call.offender_id);
        call.carry_out(async move { self.effect(endpoint, request, entry_fault.as_ref()) })
            .await
    }

    fn effect(
        &self,
        endpoint: Endpoint,
        request: TopicRequest,
        fault: Option<&EntryFault>,
    ) -> Reply {
        if request.topic_arn != self.arn() {
            return error_reply(404, "NotFound", "Topic does not exist");
        }
        match endpoint {
            Endpoint::PublishBatch => match request.check_batch() {
                Ok(()) => protocol::batch_reply(request.entries.into_iter().enumerate().map(
                    |(index, entry)| {
                        let id = entry.id.clone();
                        (id, self.publish_checked(index, entry, fault))
                    },
                )),
                Err(refusal) => refusal.into_reply(),
            },
            Endpoint::Publish => match request
                .into_single()
                .and_then(|entry| self.publish_checked(0, entry, fault))
            {
                Ok(message_id) => protocol::publish_reply(&message_id),
                Err(refusal) => refusal.into_reply(),
            },
            _ => self.attributes(),
        }
    }

    fn publish_checked(
        &self,
        index: usize,
        entry: Entry,
        fault: Option<&EntryFault>,
    ) -> Result<String, Refusal> {
        entry.check()?;
        match fault.filter(|fault| fault.hits(index, &entry)) {
            Some(fault) => Err(fault.refusal.clone()),
            None => Ok(self.publish(entry)),
        }
    }

    fn attributes(&self) -> Reply {
        let settings = &self.0.settings;
        protocol::attributes_reply(&[
            ("DisplayName", ""),
            ("Owner", settings.arn.split(':').nth(4).unwrap_or_default()),
            (
                "SubscriptionsConfirmed",
                &settings.subscriptions_confirmed.to_string(),
            ),
            ("SubscriptionsDeleted", "0"),
            (
                "SubscriptionsPending",
                &settings.subscriptions_pending.to_string(),
            ),
            ("TopicArn", &settings.arn),
        ])
    }
}

/// A fault of some entries of a batch.
struct EntryFault {
    index: Option<usize>,
    offender_id: Option<i64>,
    refusal: Refusal,
}

impl EntryFault {
    fn read(fault: Option<&Fault>, offender_id: Option<i64>) -> Option<Self> {
        let Some(Fault::SnsEntryError {
            entry,
            code,
            sender_fault,
        }) = fault
        else {
            return None;
        };
        let refusal = Refusal {
            code: code.clone(),
            message: "Injected fault".into(),
            sender_fault: *sender_fault,
        };
        Some(Self {
            index: *entry,
            offender_id,
            refusal,
        })
    }

    fn hits(&self, index: usize, entry: &Entry) -> bool {
        self.index.is_none_or(|hit| hit == index)
            && self
                .offender_id
                .is_none_or(|offender| entry.concerns(offender))
    }
}
