//! The log of a run: every call with its effects and answers, in order and in virtual time. A replay prints it, and the
//! checker reads nothing else.

use std::fmt;
use std::time::Duration;

use probation_offender_events::ports::CallErrorKind;

use crate::faults::FaultKind;

/// One event of a row: the row, and the event's number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventOf {
    pub row: i64,
    pub index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    Next,
    Identifiers,
    Delete,
    Mark,
    Publish,
}

/// A call as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Next,
    Identifiers(i64),
    Delete(i64),
    Mark(i64),
    Publish(Vec<EventOf>),
}

impl Call {
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Next => Endpoint::Next,
            Self::Identifiers(_) => Endpoint::Identifiers,
            Self::Delete(_) => Endpoint::Delete,
            Self::Mark(_) => Endpoint::Mark,
            Self::Publish(_) => Endpoint::Publish,
        }
    }
}

/// An answer as the pod received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A row, locked to the pod. It has no id if the answer was garbled.
    Row {
        row: Option<i64>,
        failed_update: bool,
        readable: bool,
    },
    NoRow,
    Found,
    NotFound,
    Done,
    /// For each event: accepted, or why not.
    Events(Vec<Result<(), CallErrorKind>>),
    Failed(CallErrorKind),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    PodStarted,
    PodKilled,
    StopAsked,
    PodStopped,
    Sent(u64, Call),
    Faulted(u64, FaultKind),
    /// The effect of a claim.
    Locked {
        call: u64,
        row: i64,
        failed_update: bool,
    },
    /// A new row for the same record has replaced this one.
    Swallowed {
        row: i64,
        by: i64,
    },
    /// Another caller was faster to lock the row.
    LostRace(u64),
    Accepted(u64, EventOf),
    Deleted(u64, i64),
    Marked(u64, i64),
    Answered(u64, Answer),
    /// The pod stopped waiting for the answer.
    TimedOut(u64),
    Inserted(i64),
    Stalled(Duration),
    ClockJumped(i64),
    TroubleOver,
    /// Metrics at the end of a pod's life.
    Counted {
        /// By cause.
        redelivered: Vec<(&'static str, u64)>,
        brake_seen: bool,
        trouble_seen: bool,
        most_held: i64,
        /// Rows whose task has panicked.
        panicked: u64,
    },
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Duration,
    /// The number of the process. 0 is the world itself.
    pub pod: usize,
    pub what: What,
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_secs_f64();
        match self.pod {
            0 => write!(formatter, "{seconds:10.3} world  {:?}", self.what),
            pod => write!(formatter, "{seconds:10.3} pod {pod:<2} {:?}", self.what),
        }
    }
}
