//! What can become of a row that was claimed, and the names of that in logs and metrics.

use super::claim_gate::Step;

/// How a row's time in flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its events are on the topic and the row is deleted.
    Published,
    /// Its events had been on the topic before, the row is deleted now.
    DeletedAgain,
    /// Marked as permanently failed.
    PermanentlyFailed,
    /// Left locked; it comes back when the lock runs out.
    LeftLocked(Reason),
}

/// Why a row was left locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The offender is not visible to community-api; the row gets a second chance.
    NotVisible,
    /// The row cannot be read; it gets a second chance.
    Unreadable,
    /// The topic refuses a message; the row gets a second chance.
    Refused,
    /// It should be given up for good, but too many rows should.
    Brake,
    /// Its calls of this step kept failing while other rows got through.
    GaveWay(Step),
    /// There is not enough of the lease left for another attempt.
    LeaseRanOut,
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

impl Reason {
    /// The reason's name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotVisible => "not_visible",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Brake => "brake",
            Self::GaveWay(_) => "gave_way",
            Self::LeaseRanOut => "lease_ran_out",
        }
    }

    /// Whether the row was left since no events can be made of it, which may be different when it comes back.
    #[must_use]
    pub fn is_second_chance(self) -> bool {
        matches!(self, Self::NotVisible | Self::Unreadable | Self::Refused)
    }
}
