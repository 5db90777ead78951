//! How much the service's log grows while nothing happens, and in a long outage.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Once;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::faults::{Outage, Symptom};
use crate::log::Endpoint;
use crate::run::run;
use crate::scenarios::{healthy, row};
use crate::seed::{Kind, Plan};

const PODS: usize = 4;
const HOUR: Duration = Duration::from_hours(1);

thread_local! {
    /// The messages of all lines at INFO and above, while a test on this thread collects them.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// One subscriber for the whole process. Interest in a line is cached where it is logged, so concurrent tests with
/// separate subscribers would lose lines to each other.
struct LinesOfThisThread;

impl<S: Subscriber> Layer<S> for LinesOfThisThread {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                event.record(&mut Messages(lines));
            }
        });
    }
}

struct Messages<'a>(&'a mut Vec<String>);

impl Visit for Messages<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.push(format!("{value:?}"));
        }
    }
}

fn lines_of(plan: Plan) -> Vec<String> {
    static SUBSCRIBED: Once = Once::new();
    SUBSCRIBED.call_once(|| {
        let layer = LinesOfThisThread.with_filter(LevelFilter::INFO);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
            .unwrap();
    });
    LINES.set(Some(Vec::new()));
    run(plan, None);
    LINES.take().unwrap()
}

/// An hour, from the fifth minute on.
fn outage(endpoint: Option<Endpoint>, symptom: Symptom, rows: usize) -> Plan {
    let mut plan = healthy(Kind::Chaos, PODS);
    let from = Duration::from_mins(5);
    plan.outages.push(Outage {
        from,
        to: from + HOUR,
        endpoint,
        symptom,
    });
    plan.trouble_ends = from + HOUR + Duration::from_mins(1);
    for index in 0..rows {
        let at = from + HOUR * u32::try_from(index).unwrap() / u32::try_from(rows).unwrap();
        plan.rows.push(row(index, index, at));
    }
    plan
}

#[test]
fn idle_hours_log_one_line_per_pod() {
    let mut plan = healthy(Kind::Chaos, PODS);
    plan.trouble_ends = HOUR * 3;
    let line = "no poll has found a row (404): if people are changing data in Delius, check COMMUNITY_ENDPOINT_URL, \
        and whether Delius writes rows. The service keeps polling";
    assert_eq!(lines_of(plan), [line; PODS]);
}

#[test]
fn an_hour_of_lost_races_logs_one_line_per_pod() {
    let mut plan = outage(Some(Endpoint::Next), Symptom::Throttles, 0);
    plan.outages[0].to += HOUR / 2;
    plan.trouble_ends += HOUR / 2;
    let lines = lines_of(plan);
    let is_of_races = |line: &&String| line.contains("lost its rows to other callers (409)");
    assert_eq!(lines.iter().filter(is_of_races).count(), PODS, "{lines:#?}");
    assert_eq!(lines.len(), PODS, "{lines:#?}");
}

#[test]
fn an_hour_without_claims_logs_a_few_lines_per_pod() {
    let rows = 20;
    for symptom in [Symptom::Fails, Symptom::Hangs, Symptom::Unauthorised] {
        for endpoint in [Some(Endpoint::Next), None] {
            let lines = lines_of(outage(endpoint, symptom, rows));
            // The failure, a reminder every 10 minutes and the recovery. After it, one line per row.
            let most = PODS * 8 + rows;
            assert!(lines.len() <= most, "{symptom:?} {endpoint:?}: {lines:#?}");
            assert!(lines.len() >= PODS * 2 + rows, "{symptom:?}: {lines:#?}");
        }
    }
}

#[test]
fn an_hour_without_a_settled_row_logs_each_row_and_lock() {
    let rows = 20;
    let locks = 7;
    for endpoint in [Endpoint::Identifiers, Endpoint::Publish, Endpoint::Delete] {
        for symptom in [Symptom::Fails, Symptom::Hangs, Symptom::Throttles] {
            let lines = lines_of(outage(Some(endpoint), symptom, rows));
            // Each pod also logs the outage, its reminders and its end.
            let most = rows * locks * 3;
            assert!(
                lines.len() <= most,
                "{symptom:?}: {} {lines:#?}",
                lines.len()
            );
            assert!(lines.len() > rows, "{symptom:?}: {lines:#?}");
        }
    }
}
