//! Requests to the topic, read from the form of the AWS query protocol, and SNS' checks of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::error_reply;
use crate::http::Reply;

/// The most entries in a batch.
const MOST_ENTRIES: usize = 10;
/// The most bytes in a request, including attributes.
const MOST_BYTES: usize = 262_144;

/// Why SNS refuses a request or an entry of a batch.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) sender_fault: bool,
}

impl Refusal {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            sender_fault: true,
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        error_reply(
            if self.sender_fault { 400 } else { 500 },
            &self.code,
            &self.message,
        )
    }
}

/// A request to the topic that is read but not yet checked.
#[derive(Default)]
pub(super) struct TopicRequest {
    pub(super) action: String,
    pub(super) topic_arn: String,
    /// The entries of a batch, or the one of `Publish`.
    pub(super) entries: Vec<Entry>,
}

/// One message to be published.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) message: String,
    pub(super) subject: Option<String>,
    pub(super) attributes: Vec<(String, AttributeValue)>,
}

#[derive(Default)]
pub(super) struct AttributeValue {
    data_type: String,
    value: String,
}

/// An incomplete entry: attributes are numbered, and their parts may come in any order.
#[derive(Default)]
struct Draft {
    entry: Entry,
    attributes: BTreeMap<usize, (String, AttributeValue)>,
}

impl TopicRequest {
    pub(super) fn read(body: &[u8]) -> Self {
        let mut request = Self::default();
        let mut drafts: BTreeMap<usize, Draft> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "Action" => request.action = value.into_owned(),
                "TopicArn" | "TargetArn" => request.topic_arn = value.into_owned(),
                name => match name
                    .strip_prefix("PublishBatchRequestEntries.member.")
                    .and_then(numbered)
                {
                    Some((number, field)) => drafts.entry(number).or_default().set(field, value),
                    None => drafts.entry(0).or_default().set(name, value),
                },
            }
        }
        // The parameters of `Publish` have no numbers, nor do those that belong to no entry.
        let single = drafts.remove(&0).map(Draft::finish);
        request.entries = if request.action == "Publish" {
            vec![single.unwrap_or_default()]
        } else {
            drafts.into_values().map(Draft::finish).collect()
        };
        request
    }

    /// The one entry of a `Publish`.
    pub(super) fn into_single(mut self) -> Result<Entry, Refusal> {
        let entry = self.entries.pop().unwrap_or_default();
        if entry.bytes() > MOST_BYTES {
            return Err(Refusal::new(
                "InvalidParameter",
                "Invalid parameter: Message too long",
            ));
        }
        Ok(entry)
    }

    /// The checks of a whole batch.
    pub(super) fn check_batch(&self) -> Result<(), Refusal> {
        if self.entries.is_empty() {
            return Err(Refusal::new(
                "EmptyBatchRequest",
                "The batch request doesn't contain any entries.",
            ));
        }
        if self.entries.len() > MOST_ENTRIES {
            return Err(Refusal::new(
                "TooManyEntriesInBatchRequest",
                "The batch request contains more entries than permissible (more than 10).",
            ));
        }
        let mut ids = HashSet::new();
        if !self.entries.iter().all(|entry| ids.insert(&*entry.id)) {
            return Err(Refusal::new(
                "BatchEntryIdsNotDistinct",
                "Two or more batch entries in the request have the same Id.",
            ));
        }
        let valid = |id: &str| {
            (1..=80).contains(&id.len())
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !self.entries.iter().all(|entry| valid(&entry.id)) {
            return Err(Refusal::new(
                "InvalidBatchEntryId",
                "The Id of a batch entry in a batch request is invalid.",
            ));
        }
        if self.entries.iter().map(Entry::bytes).sum::<usize>() > MOST_BYTES {
            return Err(Refusal::new(
                "BatchRequestTooLong",
                "The length of all the batch messages put together is more than the limit.",
            ));
        }
        Ok(())
    }
}

impl Draft {
    fn set(&mut self, field: &str, value: Cow<'_, str>) {
        match field {
            "Id" => self.entry.id = value.into_owned(),
            "Message" => self.entry.message = value.into_owned(),
            "Subject" => self.entry.subject = Some(value.into_owned()),
            _ => {
                let Some((number, part)) = field
                    .strip_prefix("MessageAttributes.entry.")
                    .and_then(numbered)
                else {
                    return;
                };
                let (name, attribute) = self.attributes.entry(number).or_default();
                match part {
                    "Name" => *name = value.into_owned(),
                    "Value.DataType" => attribute.data_type = value.into_owned(),
                    "Value.StringValue" | "Value.BinaryValue" => {
                        attribute.value = value.into_owned();
                    }
                    _ => {}
                }
            }
        }
    }

    fn finish(self) -> Entry {
        Entry {
            attributes: self.attributes.into_values().collect(),
            ..self.entry
        }
    }
}

/// `3.Value.DataType` → 3 and the rest. Numbers start at 1.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some((number, rest))
}

impl Entry {
    /// The checks of a single message.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.message.is_empty() {
            return Err(Refusal::new(
                "InvalidParameter",
                "Invalid parameter: Empty message",
            ));
        }
        if self
            .subject
            .as_ref()
            .is_some_and(|subject| subject.is_empty() || subject.len() > 100)
        {
            return Err(Refusal::new(
                "InvalidParameter",
                "Invalid parameter: Subject",
            ));
        }
        let mut names = HashSet::new();
        for (name, attribute) in &self.attributes {
            let invalid = |message: String| Err(Refusal::new("ParameterValueInvalid", message));
            if name.is_empty() {
                return invalid("The message attribute name must not be empty.".into());
            }
            if !names.insert(&**name) {
                return invalid(format!(
                    "The message attribute '{name}' occurs more than once."
                ));
            }
            let kind = attribute.data_type.split('.').next().unwrap_or_default();
            if !["String", "Number", "Binary"].contains(&kind) {
                return invalid(format!(
                    "The message attribute '{name}' has an invalid message attribute type."
                ));
            }
            if attribute.value.is_empty() {
                return invalid(format!(
                    "The message attribute '{name}' must contain non-empty message attribute value \
                     for message attribute type '{kind}'."
                ));
            }
            if kind == "Number" && attribute.value.parse::<f64>().is_err() {
                return invalid(format!(
                    "Could not cast message attribute '{name}' value to number."
                ));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let attributes = self.attributes.iter();
        let attributes =
            attributes.map(|(name, value)| name.len() + value.data_type.len() + value.value.len());
        self.message.len() + attributes.sum::<usize>()
    }

    /// Whether the message is about the offender.
    pub(super) fn concerns(&self, offender: i64) -> bool {
        #[derive(Deserialize)]
        struct About {
            #[serde(rename = "offenderId")]
            offender: i64,
        }
        serde_json::from_str::<About>(&self.message).is_ok_and(|about| about.offender == offender)
    }
}

impl AttributeValue {
    /// The data type and the value.
    pub(super) fn into_pair(self) -> (String, String) {
        (self.data_type, self.value)
    }
}
