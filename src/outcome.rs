//! What can become of a claimed row and of a poll, with the names of that in logs and metrics.

/// A closed set of values of one label of a metric.
pub trait Label: Copy + 'static {
    /// Every value, so that each series exists with 0 from the start.
    const ALL: &'static [Self];

    /// The value as logs and metrics show it.
    fn name(self) -> &'static str;

    /// Its position in [`Self::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// The calls that a claimed row needs.
    Step {
        /// Look up the offender's identifiers.
        Identifiers = "identifiers",
        /// Publish the events.
        Publish = "publish",
        /// Delete the published row.
        Delete = "delete",
        /// Mark the row as permanently failed.
        MarkAsFailed = "mark_as_failed",
    }
}

/// How a row's time with this pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its events are published and the row is deleted.
    Published,
    /// Its events were published before, the row is deleted now.
    DeletedAgain,
    /// It is marked as permanently failed.
    PermanentlyFailed,
    /// It is left locked and comes back when the lock expires.
    LeftLocked(Reason),
}

impl Outcome {
    /// The outcome's name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::DeletedAgain => "deleted_again",
            Self::PermanentlyFailed => "permanently_failed",
            Self::LeftLocked(reason) => reason.name(),
        }
    }
}

label! {
    /// Why a row was left locked.
    Reason {
        /// The offender is not visible to community-api. The row gets a second chance.
        NotVisible = "not_visible",
        /// The row cannot be read. It gets a second chance.
        Unreadable = "unreadable",
        /// The topic refuses a message. The row gets a second chance.
        Refused = "refused",
        /// It should be marked as permanently failed, but too many rows were.
        Brake = "brake",
        /// Its identifiers kept failing while other rows were settled, and the pod held too many rows.
        CrowdedOut = "crowded_out",
        /// Too little of the lease is left for the next attempt.
        LeaseRanOut = "lease_ran_out",
        /// Its task panicked.
        Panicked = "panicked",
    }
}

impl Reason {
    /// Whether the row was left because no events can be made of it, which may be different when it comes back.
    #[must_use]
    pub fn is_second_chance(self) -> bool {
        matches!(self, Self::NotVisible | Self::Unreadable | Self::Refused)
    }
}

label! {
    /// Why events may reach subscribers more than once.
    RedeliveryCause {
        /// The row was claimed before: whoever had it may have published it.
        ClaimedAgain = "claimed_again",
        /// The answer to an earlier publish was lost.
        AnswerLost = "answer_lost",
        /// The publish was answered after the lease had ended, so that another pod may have the row.
        LeaseOverrun = "lease_overrun",
    }
}

label! {
    /// What the service depends on.
    Dependency {
        /// hmpps-auth, by its ping.
        Auth = "auth",
        /// community-api, by its ping.
        CommunityApi = "community_api",
        /// The topic, by its attributes.
        Sns = "sns",
    }
}

label! {
    /// How a call to another service ended.
    CallOutcome {
        /// As wished.
        Ok = "ok",
        /// With 404, which is an answer like any other.
        NotFound = "not_found",
        /// There were too many calls at once.
        Contended = "contended",
        /// The topic will never accept the message.
        Refused = "refused",
        /// The token or the credentials are missing, wrong, or lack a role.
        Unauthorised = "unauthorised",
        /// Without an answer that can be read. The call may have taken effect.
        AnswerLost = "answer_lost",
        /// Without effect, for any other reason.
        Failed = "failed",
        /// The service stopped waiting for the answer. The call may have taken effect.
        TimedOut = "timed_out",
    }
}

label! {
    /// How a poll ended.
    PollResult {
        /// There was nothing to do.
        Empty = "empty",
        /// It brought rows.
        Found = "found",
        /// Other callers had the same rows.
        Contended = "contended",
        /// community-api did not answer, or with an error.
        Failed = "failed",
        /// hmpps-auth issued no token.
        NoToken = "no_token",
        /// community-api did not accept the token.
        Unauthorised = "unauthorised",
    }
}
