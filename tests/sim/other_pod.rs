//! A pod that goes on while all others stall. It needs no poller: without any time passing, it does what a healthy pod does
//! with each row.

use std::time::Duration;

use probation_offender_events::offender_update::{ClaimedRow, OffenderUpdate};
use sandbox::delius::{Attempt, Claim};

use crate::log::{Answer, Call, What};
use crate::world::World;

/// Claims, publishes and deletes all rows that can be claimed when the others have stalled for this long. It leaves
/// a row locked that cannot be published.
pub fn drain(world: &World, pod: usize, stall: Duration) {
    world.note(pod, What::PodStarted);
    let mut claimed_again = 0;
    world.ahead_of_time(stall, || {
        while let Some(row) = claim(world, pod) {
            if let ClaimedRow::Update(update) = &row
                && settle(world, pod, update)
            {
                claimed_again += u64::from(update.failed_update);
            }
        }
    });
    let counted = What::Counted {
        redelivered: vec![("claimed_again", claimed_again)],
        brake_seen: false,
        trouble_seen: false,
        most_held: 1,
        panicked: 0,
    };
    world.note(pod, counted);
}

fn claim(world: &World, pod: usize) -> Option<ClaimedRow> {
    let call = world.begin_well(pod, Call::Next);
    let row = match world.attempt(Claim::default()) {
        Attempt::Row(candidate, _) => world.lock(pod, call, &candidate),
        Attempt::Nothing | Attempt::Conflict => None,
    };
    let answer = row.as_ref().map_or(Answer::NoRow, |row| Answer::Row {
        row: row.offender_delta_id().map(|id| id.0),
        failed_update: row.failed_update(),
        readable: matches!(row, ClaimedRow::Update(_)),
    });
    world.note(pod, What::Answered(call, answer));
    row
}

/// Returns whether it has sent the row's events.
fn settle(world: &World, pod: usize, update: &OffenderUpdate) -> bool {
    let (offender, row) = (update.offender_id.0, update.offender_delta_id.0);
    let call = world.begin_well(pod, Call::Identifiers(offender));
    if world.identifiers(offender).is_none() {
        world.note(pod, What::Answered(call, Answer::NotFound));
        return false;
    }
    world.note(pod, What::Answered(call, Answer::Found));
    let events = world.events_of_row(row);
    let call = world.begin_well(pod, Call::Publish(events.clone()));
    let answers = world.publish(pod, call, &events);
    let is_published = answers.iter().all(Result::is_ok);
    let returned = answers
        .into_iter()
        .map(|answer| answer.map_err(|error| error.kind));
    let returned = Answer::Events(returned.collect());
    world.note(pod, What::Answered(call, returned));
    if is_published {
        let call = world.begin_well(pod, Call::Delete(row));
        world.delete(pod, call, row);
        world.note(pod, What::Answered(call, Answer::Done));
    }
    true
}
