//! How a claimed row, a call and a poll can end, with the names that logs and metrics show.

/// A closed set of values of one label of a metric.
pub trait Label: Copy + 'static {
    /// Every value, so that each series exists with 0 from the start.
    const ALL: &'static [Self];

    /// The value in logs and metrics.
    fn name(self) -> &'static str;

    /// Its position in [`Self::ALL`].
    fn index(self) -> usize;
}

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

/// How the work on a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its events are published and the row is deleted.
    Published,
    /// Its events were published before, and the row is now deleted.
    DeletedAgain,
    /// It is marked as permanently failed.
    PermanentlyFailed,
    /// It is left locked and comes back when the lock expires.
    LeftLocked(Reason),
}

impl Outcome {
    /// The name in logs and metrics.
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
        /// community-api does not show the offender. The row gets a second chance.
        NotVisible = "not_visible",
        /// The row cannot be read. It gets a second chance if its id can be read.
        Unreadable = "unreadable",
        /// The topic refuses a message. The row gets a second chance.
        Refused = "refused",
        /// It should be marked as permanently failed, but the brake is on.
        Brake = "brake",
        /// Its identifiers calls kept failing while those for other rows were answered, and the pod held too many rows.
        CrowdedOut = "crowded_out",
        /// Too little of the lease is left for the next attempt.
        LeaseRanOut = "lease_ran_out",
        /// Its task panicked.
        Panicked = "panicked",
    }
}

impl Reason {
    /// Whether the service left the row because it could not turn the row into events. That may have changed when the
    /// row comes back.
    pub fn is_second_chance(self) -> bool {
        matches!(self, Self::NotVisible | Self::Unreadable | Self::Refused)
    }
}

label! {
    /// Why events may reach subscribers more than once.
    RedeliveryCause {
        /// The row was claimed before, and may have been published then.
        ClaimedAgain = "claimed_again",
        /// An earlier publish got no answer.
        AnswerLost = "answer_lost",
        /// The publish was answered after the lease had ended, so another pod may have the row.
        LeaseOverrun = "lease_overrun",
    }
}

label! {
    /// What the service depends on.
    Dependency {
        /// hmpps-auth.
        Auth = "auth",
        /// community-api.
        CommunityApi = "community_api",
        /// The SNS topic.
        Sns = "sns",
    }
}

label! {
    /// How a call to another service ended.
    CallOutcome {
        /// It succeeded.
        Ok = "ok",
        /// The answer was 404, which is not a failure.
        NotFound = "not_found",
        /// There were too many concurrent calls.
        Contended = "contended",
        /// The topic will never accept the message.
        Refused = "refused",
        /// The token or the credentials are missing, wrong, or lack a role.
        Unauthorised = "unauthorised",
        /// There was no readable answer. The call may have taken effect.
        AnswerLost = "answer_lost",
        /// It had no effect, for any other reason.
        Failed = "failed",
        /// The service stopped waiting for the answer. The call may have taken effect.
        TimedOut = "timed_out",
    }
}

label! {
    /// How a poll ended.
    PollResult {
        /// There were no rows.
        Empty = "empty",
        /// It claimed rows.
        Found = "found",
        /// Other callers locked the same rows first.
        Contended = "contended",
        /// community-api did not answer, answered with an error, or its answers were unreadable.
        Failed = "failed",
        /// hmpps-auth issued no token.
        NoToken = "no_token",
        /// community-api did not accept the token.
        Unauthorised = "unauthorised",
    }
}
