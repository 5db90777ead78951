//! Single situations with real times. Each promises a number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checker::check;
use crate::faults::{Outage, Symptom};
use crate::log::{Endpoint, EventOf, What};
use crate::many::number;
use crate::run::{Run, run};
use crate::seed::{Kind, Offender, Plan, RowPlan};

pub const OFFENDERS: usize = 200;
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

/// A world without faults, with the settings of production.
pub fn healthy(kind: Kind, pods: usize) -> Plan {
    let mut plan = Plan::of(0);
    plan.kind = kind;
    plan.pods = pods;
    plan.settings.fixed_delay = Duration::from_secs(10);
    plan.settings.max_in_flight = 32;
    plan.settings.held_limit = 32 + 256;
    plan.settings.lock_expiry = Duration::from_mins(10);
    plan.settings.call_timeout = Duration::from_secs(10);
    plan.settings.publish_timeout = Duration::from_secs(5);
    plan.settings.claim_timeout = Duration::from_secs(30);
    plan.settings.brake_limit = 10;
    plan.settings.brake_window = Duration::from_mins(10);
    plan.lock_expiry = plan.settings.lock_expiry;
    plan.rates.share = 0.0;
    plan.rates.usual_milliseconds = 30;
    plan.offenders = vec![Offender::Well; OFFENDERS];
    plan.rows.clear();
    plan.outages.clear();
    plan.restarts.clear();
    plan.clock_faults.clear();
    plan
}

pub fn row(record: usize, offender: usize, insert_at: Duration) -> RowPlan {
    RowPlan {
        insert_at,
        offender,
        table: "ALIAS",
        record: Some(i64::try_from(record).unwrap()),
        unreadable: false,
        refused: false,
        failed_before: false,
    }
}

/// When the first event of each row was accepted, by the row's record.
pub fn published(run: &Run) -> BTreeMap<i64, Duration> {
    let mut published = BTreeMap::new();
    for entry in &run.log {
        if let What::Accepted(_, EventOf { row, index: 0 }) = entry.what {
            let record = run.rows[&row].plan.record.unwrap();
            published.entry(record).or_insert(entry.at);
        }
    }
    published
}

#[test]
fn an_outage_of_sns_delays_rows_by_little_more_than_itself() {
    for symptom in [Symptom::Fails, Symptom::Hangs, Symptom::Throttles] {
        let mut plan = healthy(Kind::Outage, 4);
        let outage = Outage {
            from: Duration::from_mins(2),
            to: Duration::from_mins(10),
            endpoint: Some(Endpoint::Publish),
            symptom,
        };
        plan.outages.push(outage);
        plan.trouble_ends = Duration::from_mins(12);
        for index in 0..600 {
            let insert_at = Duration::from_millis(1200) * u32::try_from(index).unwrap();
            plan.rows.push(row(index, index % OFFENDERS, insert_at));
        }
        let run = run(plan, None);
        assert_eq!(check(&run), Ok(()), "{symptom:?}");
        let published = published(&run);
        assert_eq!(published.len(), 600);
        for (record, at) in published {
            let inserted = run.plan.rows[usize::try_from(record).unwrap()].insert_at;
            // A row is served after 2 s, and claimed within 10 s. The last publish of the outage may hang for 5 s.
            let usual = Duration::from_secs(2 + 10 + 5 + 2);
            let due = inserted.max(if inserted < outage.to && inserted + usual > outage.from {
                outage.to
            } else {
                inserted
            });
            let late = at.saturating_sub(due);
            assert!(
                late <= LONGEST_BACKOFF + usual,
                "{symptom:?}: {record} was {late:?} late"
            );
        }
    }
}

/// When the tokens run out, rows of one offender fill all places of a pod that knows no other. The offender cannot be
/// the cause, so stepping aside for others gains nothing.
#[test]
fn an_outage_of_auth_leaves_no_row_locked() {
    let mut plan = healthy(Kind::AuthOutage, 1);
    plan.settings.max_in_flight = 5;
    plan.settings.fixed_delay = Duration::from_secs(1);
    plan.rates.usual_milliseconds = 400;
    let outage = Outage {
        from: Duration::from_secs(10),
        to: Duration::from_mins(8),
        endpoint: None,
        symptom: Symptom::Unauthorised,
    };
    plan.outages.push(outage);
    plan.trouble_ends = Duration::from_mins(9);
    plan.rows = (0..40)
        .map(|index: usize| row(index, 0, Duration::from_millis(300 * index as u64)))
        .collect();
    let run = run(plan, None);
    assert_eq!(check(&run), Ok(()));
    let published = published(&run);
    assert_eq!(published.len(), 40);
    let last = published.values().max().unwrap();
    assert!(*last < outage.to + LONGEST_BACKOFF + Duration::from_secs(40));
}

#[test]
fn bad_rows_delay_others_by_seconds_at_most() {
    // More where more seeds are asked for, as in CI.
    let good_rows = number("SIM_SEEDS").map_or(60, |_| 1_000);
    // The number of bad offenders, and of rows of each.
    for (offenders, rows_of_each) in [(1, 1), (40, 1), (1, 40)] {
        for bad in [Some(Offender::Fails), Some(Offender::Hangs), None] {
            for pods in [1, 4] {
                let mut plan = healthy(Kind::BadRows, pods);
                plan.trouble_ends = Duration::from_secs(1);
                let zero = Duration::ZERO;
                let good = (0..good_rows).map(|index| row(index, index % OFFENDERS, zero));
                plan.rows = good.collect();
                let undisturbed = published(&run(plan.clone(), None));
                assert_eq!(undisturbed.len(), good_rows);

                plan.offenders
                    .extend(vec![bad.unwrap_or(Offender::Well); offenders]);
                for index in 0..offenders * rows_of_each {
                    let mut bad_row = row(good_rows + index, OFFENDERS + index % offenders, zero);
                    bad_row.refused = bad.is_none();
                    // Last, so that the good rows keep their ids, which order rows of one second.
                    plan.rows.push(bad_row);
                }
                let disturbed = run(plan, None);
                let what = format!(
                    "{offenders} offenders, {rows_of_each} rows of each, {bad:?}, {pods} pods"
                );
                assert_eq!(check(&disturbed), Ok(()), "{what}");
                let published = published(&disturbed);
                for (record, usual) in undisturbed {
                    let late = published[&record].saturating_sub(usual);
                    assert!(
                        late <= Duration::from_secs(10),
                        "{what}: {record} was {late:?} late"
                    );
                }
            }
        }
    }
}
