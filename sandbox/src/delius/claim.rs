//! One `nextUpdate`: which row it tries next, and when it answers 409.

use anyhow::Result;

use super::rows::{Candidate, Status};
use super::{Delius, OLDEST_CREATED, OLDEST_EXPIRED};

/// How many times one call tries to lock a row of each kind before it answers 409.
const ATTEMPTS: u8 = 10;

/// How far a call has come. It tries new rows first, and then those whose lock has expired.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    rows: Status,
    attempts_left: u8,
}

impl Default for Claim {
    fn default() -> Self {
        Self {
            rows: Status::Created,
            attempts_left: ATTEMPTS,
        }
    }
}

/// The next step of a call.
#[derive(Clone, Copy, Debug)]
pub enum Attempt {
    /// It tries to lock this row. If another caller is faster, it continues from the claim.
    Row(Candidate, Claim),
    /// There are no rows: 404.
    Nothing,
    /// It has lost its last attempt: 409.
    Conflict,
}

impl Delius {
    /// The next attempt of a claim at `now`. It locks nothing yet.
    pub fn attempt(&self, claim: Claim, now: i64) -> Result<Attempt> {
        let Some(attempts_left) = claim.attempts_left.checked_sub(1) else {
            return Ok(Attempt::Conflict);
        };
        if let Some(candidate) = self.oldest(claim.rows, now)? {
            let claim = Claim {
                attempts_left,
                ..claim
            };
            return Ok(Attempt::Row(candidate, claim));
        }
        if claim.rows == Status::InProgress {
            return Ok(Attempt::Nothing);
        }
        let expired = Claim {
            rows: Status::InProgress,
            attempts_left: ATTEMPTS,
        };
        self.attempt(expired, now)
    }

    fn oldest(&self, rows: Status, now: i64) -> Result<Option<Candidate>> {
        let timings = self.timings();
        if rows == Status::Created {
            return self.look(OLDEST_CREATED, now - timings.serve_after_seconds, rows);
        }
        let not_after = now - timings.lock_expiry_seconds;
        if self.any_expired(not_after)? {
            self.look(OLDEST_EXPIRED, not_after, rows)
        } else {
            Ok(None)
        }
    }
}
