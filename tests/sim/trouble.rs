//! What rows in trouble cost the others, and what an outage costs. Each case prints its figures, and keeps its limit.

use std::io::Write as _;
use std::time::Duration;

use crate::checker::check;
use crate::faults::{Outage, Symptom};
use crate::log::{Call, Endpoint, What};
use crate::run::{Run, run};
use crate::scenarios::{OFFENDERS, healthy, published, row};
use crate::seed::{Ending, Kind, Offender, Plan, Restart, RowPlan};

const SECOND: Duration = Duration::from_secs(1);

/// Bad rows before good ones, which come a second later, since rows of one second are served in any order.
fn bad_in_front(bad: Offender, offenders: usize, rows_of_each: usize, good: usize) -> Plan {
    let mut plan = healthy(Kind::BadRows, 1);
    plan.trouble_ends = SECOND;
    plan.offenders.extend(vec![bad; offenders]);
    let bad_rows = (0..offenders * rows_of_each).map(|index| {
        row(
            good + index,
            OFFENDERS + index / rows_of_each,
            Duration::ZERO,
        )
    });
    let good_rows = (0..good).map(|index| row(index, index % OFFENDERS, SECOND));
    plan.rows = bad_rows.chain(good_rows).collect();
    plan
}

fn outage(endpoint: Endpoint, symptom: Symptom, minutes: u64, rows: usize) -> Plan {
    let mut plan = healthy(Kind::Outage, 1);
    let from = Duration::from_mins(2);
    plan.outages.push(Outage {
        from,
        to: from + Duration::from_mins(minutes),
        endpoint: Some(endpoint),
        symptom,
    });
    plan.trouble_ends = from + Duration::from_mins(minutes + 2);
    plan.offenders = vec![Offender::Well; rows];
    let every = Duration::from_mins(minutes + 2) / u32::try_from(rows).unwrap();
    let at = |index| from + every * u32::try_from(index).unwrap();
    plan.rows = (0..rows)
        .map(|index| row(index, index, at(index)))
        .collect();
    plan
}

/// When the first and the last good row were published, in seconds from the first claim.
fn good_rows(run: &Run, good: usize) -> (f64, f64) {
    let is_lock = |what: &What| matches!(what, What::Locked { .. });
    let first_lock = run
        .log
        .iter()
        .find(|entry| is_lock(&entry.what))
        .unwrap()
        .at;
    let published = published(run);
    let times: Vec<_> = (0..good)
        .map(|record| published[&i64::try_from(record).unwrap()].saturating_sub(first_lock))
        .map(|time| time.as_secs_f64())
        .collect();
    let first = times.iter().copied().fold(f64::MAX, f64::min);
    (first, times.iter().copied().fold(0.0, f64::max))
}

fn most_held(run: &Run) -> i64 {
    let counted = run.log.iter().filter_map(|entry| match entry.what {
        What::Counted { most_held, .. } => Some(most_held),
        _ => None,
    });
    counted.max().unwrap()
}

fn left_locked(run: &Run) -> usize {
    let came_back = |what: &What| {
        let What::Locked { failed_update, .. } = what else {
            return false;
        };
        *failed_update
    };
    run.log
        .iter()
        .filter(|entry| came_back(&entry.what))
        .count()
}

/// How much later than the outage, or than usual, the latest row was published.
fn latest(run: &Run) -> f64 {
    let outage = run.plan.outages[0];
    // Rows are served after 2 s and polled for every 10 s.
    let usual = Duration::from_secs(2 + 10);
    let late = published(run).into_iter().map(|(record, at)| {
        let inserted = run.plan.rows[usize::try_from(record).unwrap()].insert_at;
        let is_caught = inserted < outage.to && inserted + usual > outage.from;
        let due = if is_caught {
            outage.to
        } else {
            inserted + usual
        };
        at.saturating_sub(due).as_secs_f64()
    });
    late.fold(0.0, f64::max)
}

fn print(what: &str, figures: &str) {
    // Directly, since the test harness would hide it.
    let line = format!("{what:<72} {figures}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn good_rows_pass_bad_offenders_even_with_few_places() {
    // The places, the bad offenders, the rows of each, the good rows; by when the first and the last good row is
    // published.
    for (places, offenders, rows_of_each, good, first_by, last_by) in [
        (1, 5, 1, 35, 5.0, 20.0),
        (4, 8, 2, 40, 10.0, 20.0),
        (16, 22, 1, 60, 10.0, 20.0),
        (32, 40, 1, 1_000, 10.0, 60.0),
        (32, 1, 300, 100, 30.0, 60.0),
        (32, 56, 1, 100, 50.0, 52.0),
    ] {
        for (bad, slack) in [(Offender::Fails, 0.0), (Offender::Hangs, 1.0)] {
            let mut plan = bad_in_front(bad, offenders, rows_of_each, good);
            plan.settings.max_in_flight = places;
            plan.settings.held_limit = places + 256;
            let rounds = u32::try_from(offenders.div_ceil(places)).unwrap();
            let hangs = slack * 10.0 * f64::from(rounds);
            let disturbed = run(plan, None);
            let (first, last) = good_rows(&disturbed, good);
            let what = format!(
                "{places} places, {offenders} offenders {bad:?} with {rows_of_each} rows in front of {good}"
            );
            print(
                &what,
                &format!(
                    "first {first:.1} s, last {last:.1} s, held {}",
                    most_held(&disturbed)
                ),
            );
            assert_eq!(check(&disturbed), Ok(()), "{what}");
            assert!(
                first <= first_by + hangs,
                "{what}: first after {first:.1} s"
            );
            assert!(last <= last_by + hangs, "{what}: last after {last:.1} s");
        }
    }
}

#[test]
fn rows_of_an_offender_are_published_soon_after_it_is_found_again() {
    let found = Duration::from_mins(3);
    let mut plan = bad_in_front(Offender::FailsUntil(found), 5, 1, 35);
    plan.settings.max_in_flight = 1;
    plan.settings.held_limit = 257;
    plan.trouble_ends = found;
    let run = run(plan, None);
    assert_eq!(check(&run), Ok(()));
    let latest = published(&run).into_values().max().unwrap();
    print(
        "1 place, 5 offenders found again after 3 minutes",
        &format!(
            "last {:.1} s later",
            latest.saturating_sub(found).as_secs_f64()
        ),
    );
    assert!(latest <= found + Duration::from_secs(22), "{latest:?}");
}

#[test]
fn an_outage_delays_rows_by_little_more_than_itself_and_holds_few() {
    for endpoint in [Endpoint::Identifiers, Endpoint::Publish, Endpoint::Delete] {
        for (symptom, late_by) in [
            (Symptom::Fails, 20.0),
            (Symptom::Throttles, 20.0),
            (Symptom::Hangs, 30.0),
        ] {
            let run = run(outage(endpoint, symptom, 8, 600), None);
            let what = format!("outage of {endpoint:?} for 8 minutes, {symptom:?}");
            let (late, held) = (latest(&run), most_held(&run));
            print(
                &what,
                &format!(
                    "latest {late:.1} s, held {held}, left {}",
                    left_locked(&run)
                ),
            );
            assert_eq!(check(&run), Ok(()), "{what}");
            assert!(late <= late_by, "{what}: {late:.1} s late");
            assert!(held <= 90, "{what}: {held} held");
            assert_eq!(left_locked(&run), 0, "{what}");
        }
    }
}

#[test]
fn an_outage_of_an_hour_leaves_few_rows_to_wait_for_their_locks() {
    let mut plan = outage(Endpoint::Identifiers, Symptom::Fails, 60, 2_000);
    plan.kind = Kind::Chaos;
    let run = run(plan, None);
    let mut last_lock = std::collections::BTreeMap::new();
    let outage_end = run.plan.outages[0].to;
    for entry in &run.log {
        if let What::Locked { row, .. } = entry.what
            && entry.at < outage_end
        {
            last_lock.insert(row, entry.at);
        }
    }
    let locked_long = last_lock
        .values()
        .filter(|&&at| at + run.plan.lock_expiry > outage_end + Duration::from_secs(20));
    let late: Vec<_> = published(&run)
        .into_iter()
        .filter(|&(record, at)| {
            let inserted = run.plan.rows[usize::try_from(record).unwrap()].insert_at;
            at > inserted.max(outage_end) + Duration::from_mins(1)
        })
        .collect();
    print(
        "outage of Identifiers for 60 minutes, Fails",
        &format!(
            "claimed {}, locked at its end {}, waited for their locks {}, held {}",
            last_lock.len(),
            locked_long.count(),
            late.len(),
            most_held(&run)
        ),
    );
    assert!(
        late.len() <= 250,
        "{} rows waited for their locks",
        late.len()
    );
    // The places, once in each lease, and what the clock claims.
    assert!(last_lock.len() <= 280, "{} rows claimed", last_lock.len());
}

#[test]
fn a_slow_community_api_gets_no_call_twice_and_no_more_at_once_than_places() {
    let mut plan = bad_in_front(Offender::Well, 0, 0, 400);
    plan.rates.usual_milliseconds = 4_900;
    let run = run(plan, None);
    let (mut under_way, mut most, mut calls) = (0_i64, 0, 0);
    for entry in &run.log {
        match &entry.what {
            What::Sent(_, Call::Next) => {}
            What::Sent(..) => {
                under_way += 1;
                calls += 1;
                most = most.max(under_way);
            }
            What::Answered(number, _) if !is_claim(&run, *number) => under_way -= 1,
            What::TimedOut(_) => panic!("a call timed out"),
            _ => {}
        }
    }
    print(
        "calls of up to 4.9 s, 400 rows",
        &format!("{calls} calls, {most} at once"),
    );
    assert_eq!(calls, 3 * 400);
    assert!(most <= 32, "{most} calls at once");
}

fn is_claim(run: &Run, number: u64) -> bool {
    run.log
        .iter()
        .any(|entry| matches!(entry.what, What::Sent(other, Call::Next) if other == number))
}

#[test]
fn sigterm_right_after_an_outage_leaves_nothing_locked() {
    for symptom in [Symptom::Fails, Symptom::Hangs] {
        let mut plan = outage(Endpoint::Publish, symptom, 8, 600);
        plan.rows
            .retain(|row: &RowPlan| row.insert_at < plan.outages[0].to);
        plan.settings.grace_period = Duration::from_secs(25);
        plan.restarts.push(Restart {
            replica: 0,
            at: plan.outages[0].to + SECOND,
            pause: Duration::from_mins(15),
            how: Ending::Sigterm,
        });
        let run = run(plan, None);
        let left = left_locked(&run);
        print(
            &format!("SIGTERM 1 s after an outage of Publish, {symptom:?}"),
            &format!("{left} rows left locked"),
        );
        assert_eq!(left, 0, "{symptom:?}");
    }
}
