//! Faults: rules that are looked up for every call, and a count of the calls.

mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// A call that the sandbox answers, and that a fault can affect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Endpoint {
    /// `GET /secure/offenders/nextUpdate`
    NextUpdate,
    /// `GET /secure/offenders/offenderId/{offenderId}/identifiers`
    Identifiers,
    /// `DELETE /secure/offenders/update/{offenderDeltaId}`
    DeleteUpdate,
    /// `PUT /secure/offenders/update/{offenderDeltaId}/markAsFailed`
    MarkAsFailed,
    /// `GET /health/ping` of community-api
    CommunityPing,
    /// `POST /auth/oauth/token`
    Token,
    /// `GET /auth/health/ping`
    AuthPing,
    /// `Publish`
    Publish,
    /// `PublishBatch`
    PublishBatch,
    /// `GetTopicAttributes`
    TopicAttributes,
}

impl Endpoint {
    /// Those of community-api.
    pub const COMMUNITY: &[Self] = &[
        Self::NextUpdate,
        Self::Identifiers,
        Self::DeleteUpdate,
        Self::MarkAsFailed,
        Self::CommunityPing,
    ];
    /// Those of hmpps-auth.
    pub const AUTH: &[Self] = &[Self::Token, Self::AuthPing];
    /// Those of SNS.
    pub const SNS: &[Self] = &[Self::Publish, Self::PublishBatch, Self::TopicAttributes];
}

const ENDPOINTS: usize = Endpoint::TopicAttributes as usize + 1;

/// What happens instead of the effect of a call, or in addition to it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, without the effect.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The content type.
        content_type: String,
        /// The body, which need not match the content type.
        body: Vec<u8>,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// The call takes this long. Its effect takes place even if the caller has stopped waiting.
    Latency(Duration),
    /// No answer and no effect, until the caller stops waiting.
    Hang,
    /// The connection is closed, without the effect.
    DropConnection,
    /// The effect takes place, then the connection is closed without an answer.
    LoseAnswer,
    /// The effect takes place, and the answer has this status.
    AnswerAfterEffect(u16),
    /// Another transaction changes the row while DELETE or markAsFailed works on it. The answer is 500, without the
    /// effect.
    Race,
    /// An error in the form of SNS. Nothing is published.
    SnsError {
        /// The HTTP status.
        status: u16,
        /// For example `Throttling`.
        code: String,
    },
    /// An error for entries of a batch. The others are published. `Publish` answers it as its only error.
    SnsEntryError {
        /// Which entry, from 0. `None`: all, or those of the rule's offender.
        entry: Option<usize>,
        /// For example `InternalError`.
        code: String,
        /// Whether SNS says that the sender is at fault.
        sender_fault: bool,
    },
}

impl Fault {
    /// SNS refuses the whole call with this error code.
    pub fn sns(status: u16, code: &str) -> Self {
        let code = code.into();
        Self::SnsError { status, code }
    }

    /// A JSON error body with this status.
    pub fn status(status: u16) -> Self {
        let body = format!(r#"{{"status":{status},"developerMessage":"Injected fault"}}"#);
        Self::body(status, body)
    }

    /// This status and body, with the content type of JSON.
    pub fn body(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer {
            status,
            content_type: "application/json".into(),
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// Adds a header to an answer. Other faults stay as they are.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }
}

/// A fault, and the calls that it affects.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The affected calls.
    pub endpoint: Endpoint,
    /// What happens to them.
    pub fault: Fault,
    /// How many times it happens. `None`: until it is cleared.
    pub times: Option<usize>,
    /// The probability for each call, from 0 to 1.
    pub probability: f64,
    /// Only for this offender: identifiers by the path, publishing by `offenderId` in the message. Other calls have
    /// none.
    pub offender_id: Option<i64>,
    /// The outage that the rule belongs to, so that the outage can end without the other rules.
    pub outage: Option<&'static str>,
}

impl Rule {
    /// A rule that affects every call to the endpoint until it is cleared. Change its fields to narrow it.
    pub fn new(endpoint: Endpoint, fault: Fault) -> Self {
        Self {
            endpoint,
            fault,
            times: None,
            probability: 1.0,
            offender_id: None,
            outage: None,
        }
    }
}

/// The current rules. Clones share their state.
///
/// The first rule that matches decides. Latencies are an exception: they add up, and the next matching rule applies as
/// well.
#[derive(Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    rules: Mutex<Vec<Rule>>,
    /// By endpoint.
    calls: [AtomicU64; ENDPOINTS],
}

impl Faults {
    /// Adds a rule after the existing ones.
    pub fn inject(&self, rule: Rule) {
        self.0.rules.lock().push(rule);
    }

    /// The fault affects every call from now on.
    pub fn always(&self, endpoint: Endpoint, fault: Fault) {
        self.inject(Rule::new(endpoint, fault));
    }

    /// The fault affects only the next call.
    pub fn once(&self, endpoint: Endpoint, fault: Fault) {
        self.inject(Rule {
            times: Some(1),
            ..Rule::new(endpoint, fault)
        });
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.0.rules.lock().clear();
    }

    pub(crate) fn end_outage(&self, outage: &str) {
        self.0
            .rules
            .lock()
            .retain(|rule| rule.outage != Some(outage));
    }

    pub(crate) fn is_out(&self, outage: &str) -> bool {
        self.0
            .rules
            .lock()
            .iter()
            .any(|rule| rule.outage == Some(outage))
    }

    /// How many calls the endpoint has received, including those that a fault affected.
    pub fn calls(&self, endpoint: Endpoint) -> u64 {
        self.0.calls[endpoint as usize].load(Ordering::Relaxed)
    }

    /// Counts a call and chooses its fault. Only rules for one offender use `concerns`.
    pub(crate) fn receive(&self, endpoint: Endpoint, concerns: impl Fn(i64) -> bool) -> Call {
        self.0.calls[endpoint as usize].fetch_add(1, Ordering::Relaxed);
        let mut call = Call::default();
        let mut rules = self.0.rules.lock();
        for rule in rules.iter_mut() {
            let matches = rule.endpoint == endpoint
                && rule.times != Some(0)
                && rule.offender_id.is_none_or(&concerns)
                && (rule.probability >= 1.0 || fastrand::f64() < rule.probability);
            if !matches {
                continue;
            }
            rule.times = rule.times.map(|times| times - 1);
            if let Fault::Latency(latency) = rule.fault {
                call.latency += latency;
                continue;
            }
            call.fault = Some(rule.fault.clone());
            call.offender_id = rule.offender_id;
            break;
        }
        rules.retain(|rule| rule.times != Some(0));
        call
    }
}

#[derive(Default)]
pub(crate) struct Call {
    pub(crate) latency: Duration,
    pub(crate) fault: Option<Fault>,
    /// The offender of the rule that the fault comes from.
    pub(crate) offender_id: Option<i64>,
}
