//! Every metric of the service, as typed fields with a separate registry. Operators read the help texts.

mod gauges;

use std::marker::PhantomData;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    PullingGauge, Registry, TextEncoder,
};
use tokio::time::Instant;

use self::gauges::AgeMax;
pub(crate) use self::gauges::SecondsSince;
use crate::outcome::{CallOutcome, Dependency, Label, PollResult, Reason, RedeliveryCause, Step};

/// One series per value of a label. All exist from the start.
#[derive(Debug)]
pub struct By<L, M> {
    series: Vec<M>,
    label: PhantomData<L>,
}

impl<L: Label, M> By<L, M> {
    /// The series with this value of the label.
    pub fn of(&self, label: L) -> &M {
        &self.series[label.index()]
    }
}

/// The service's metrics. Every series whose labels are known in advance exists with 0 from the start, so that its rate
/// counts the first event, too.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(crate) polls: IntCounter,
    pub(crate) poll_results: By<PollResult, IntCounter>,
    pub(crate) since_claim_answered: SecondsSince,
    /// How the last claim went, and when it ended. It is not a metric: `/health` shows it beside community-api's ping,
    /// which stays UP while its database is down.
    pub last_claim: Mutex<Option<(PollResult, Instant)>>,
    pub(crate) read: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) permanently_failed: IntCounter,
    pub(crate) published: IntCounter,
    pub(crate) age: Histogram,
    age_max: AgeMax,
    pub(crate) settled: IntCounter,
    pub(crate) claims_without_answer: IntCounter,
    /// Rows that are claimed and not yet settled.
    pub held: IntGauge,
    pub(crate) oldest_held: SecondsSince,
    pub(crate) oldest_new_row: SecondsSince,
    /// 1 while a dependency's health check succeeds.
    pub dependency_up: By<Dependency, IntGauge>,
    pub(crate) rows_in_trouble: By<Step, IntGauge>,
    /// Places that rows in trouble have lost and that are not back yet.
    pub places_lost: IntGauge,
    /// 1 while the brake is on.
    pub brake_on: IntGauge,
    /// Rows left locked, by reason.
    pub left_locked: By<Reason, IntCounter>,
    /// Publishes of events that may be on the topic already, by cause.
    pub redelivered: By<RedeliveryCause, IntCounter>,
    pub(crate) lease_overruns: IntCounter,
    calls: HistogramVec,
    pub(crate) publish_results: IntCounterVec,
    pub(crate) build_info: IntGaugeVec,
    pub(crate) telemetry_dropped: IntCounterVec,
    /// Lines that could not be written to the log.
    pub log_lines_lost: IntCounter,
}

impl Metrics {
    /// Registers all metrics. It fails if two have the same name, which a test rules out.
    #[expect(
        clippy::too_many_lines,
        reason = "a list, one metric after the other with its help text"
    )]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let table = Table(&registry);
        let updates = table.counters(
            "offender_updates_total",
            "Rows read, failed (left locked for a second attempt) and permanentlyFailed, and events published. If read \
             increases for minutes and published does not, check offender_rows_in_trouble and the log.",
            "type",
        )?;
        let metrics = Self {
            polls: table.counter(
                "offender_poll_total",
                "Polls of community-api. If this does not increase, the pod does not poll.",
            )?,
            poll_results: table.counters_by(
                "offender_poll_results_total",
                "Polls by result: empty, found, contended (other callers locked the same rows), failed, no_token \
                 (hmpps-auth issued none), unauthorised (community-api refused the token). The log has the cause of the \
                 last three.",
                "result",
            )?,
            last_claim: Mutex::default(),
            since_claim_answered: table.seconds_since(
                "offender_seconds_since_successful_poll",
                "Seconds since community-api last answered a claim, or since the start. If this is more than a few poll \
                 intervals, polls or calls for claimed rows are failing.",
            )?,
            claims_without_answer: table.counter(
                "offender_claims_without_answer_total",
                "Claims that community-api did not answer. Each may have locked a row, which comes back when the lock \
                 expires.",
            )?,
            read: updates.with_label_values(&["read"]),
            failed: updates.with_label_values(&["failed"]),
            permanently_failed: updates.with_label_values(&["permanentlyFailed"]),
            published: updates.with_label_values(&["published"]),
            age: table.histogram(
                "offender_update_age_seconds",
                "Time from the change in Delius to its events on the topic. Usually 10 to 15 seconds.",
                &[1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0],
            )?,
            age_max: table.age_max(
                "offender_update_age_seconds_max",
                "Highest offender_update_age_seconds of the last 2 to 3 minutes.",
            )?,
            settled: table.counter(
                "offender_updates_settled_total",
                "Rows deleted or marked as permanently failed. If this does not increase while rows are in trouble, \
                 there is an outage.",
            )?,
            held: table.gauge(
                "offender_updates_in_flight",
                "Rows that this pod holds: claimed and not yet settled.",
            )?,
            oldest_held: table.seconds_since(
                "offender_oldest_in_flight_seconds",
                "Seconds since the oldest held row was claimed, or 0 if no row is held. Usually under a second. While \
                 calls fail, up to 95% of the lock.",
            )?,
            oldest_new_row: table.seconds_since(
                "offender_oldest_new_row_age_seconds",
                "Age of the oldest change among held rows that were claimed for the first time, or 0 if there are none. \
                 Usually up to 15 seconds. More than 600 means that there is a backlog.",
            )?,
            dependency_up: table.gauges_by(
                "offender_dependency_up",
                "1 while the health check of the dependency succeeds, otherwise 0. The service checks every 30 seconds. \
                 The log has the cause.",
                "dependency",
            )?,
            rows_in_trouble: table.gauges_by(
                "offender_rows_in_trouble",
                "Held rows with a failed call, by the step that fails. identifiers, delete and mark_as_failed are calls \
                 to community-api. publish is a call to SNS.",
                "step",
            )?,
            places_lost: table.gauge(
                "offender_places_lost",
                "Places that rows in trouble have lost and that are not back yet. If all places \
                 (OFFENDERUPDATEPOLL_MAXINFLIGHT) are lost, the service claims only a few rows until one is settled.",
            )?,
            brake_on: table.gauge(
                "offender_permanent_failure_brake_on",
                "1 while the pod marks no rows as permanently failed because it has marked too many. Check the \
                 answers from community-api and SNS.",
            )?,
            left_locked: table.counters_by(
                "offender_updates_left_locked_total",
                "Rows left locked. They come back when the lock expires.",
                "reason",
            )?,
            redelivered: table.counters_by(
                "offender_updates_redelivered_total",
                "Publishes of events that may be on the topic already, each with the same id attribute as before.",
                "cause",
            )?,
            lease_overruns: table.counter(
                "offender_update_lease_overruns_total",
                "Publishes that SNS answered after the row's lease had ended, usually because the pod had stalled.",
            )?,
            calls: table.add(HistogramVec::new(
                HistogramOpts::new(
                    "offender_call_seconds",
                    "Duration of calls to other services. timed_out: the service stopped waiting. If outcomes other \
                     than ok and not_found increase, check the service that was called.",
                )
                .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
                &["dependency", "call", "outcome"],
            )?)?,
            publish_results: table.counters(
                "offender_publish_results_total",
                "Events by SNS's answer: accepted, the error code, other (an unknown code) or no_answer.",
                "result",
            )?,
            build_info: table.add(IntGaugeVec::new(
                Opts::new("offender_events_build_info", "Always 1. The label is the version that runs."),
                &["version"],
            )?)?,
            telemetry_dropped: table.counters(
                "telemetry_dropped_total",
                "Items that did not reach Application Insights: its endpoint was slow (queue_full), refused them \
                 (refused), did not accept them within 30 seconds (not_accepted), or had not accepted them when the pod \
                 ended (stopped). The log has the cause.",
                "reason",
            )?,
            log_lines_lost: table.counter(
                "log_lines_lost_total",
                "Lines missing from the log because they could not be written quickly enough. The node or the reader of \
                 the log is overloaded.",
            )?,
            registry: registry.clone(),
        };
        metrics.publish_results.with_label_values(&["accepted"]);
        // The time until the first answered claim counts from here.
        metrics.since_claim_answered.set(Some(Instant::now()));
        // No dependency is down before the first check.
        for &dependency in Dependency::ALL {
            metrics.dependency_up.of(dependency).set(1);
        }
        for reason in ["queue_full", "refused", "not_accepted", "stopped"] {
            metrics.telemetry_dropped.with_label_values(&[reason]);
        }
        #[cfg(target_os = "linux")]
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    pub(crate) fn observe_age(&self, age: Duration) {
        self.age.observe(age.as_secs_f64());
        self.age_max.observe(age.as_secs_f64());
    }

    pub(crate) fn observe_call(
        &self,
        dependency: Dependency,
        call: &str,
        outcome: CallOutcome,
        took: Duration,
    ) {
        self.calls
            .with_label_values(&[dependency.name(), call, outcome.name()])
            .observe(took.as_secs_f64());
    }

    /// All metrics in Prometheus' text format 0.0.4.
    pub fn to_text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// All metrics in OpenMetrics' text format 1.0.0. The name of a counter's family has no `_total` there.
    pub fn to_open_metrics(&self) -> prometheus::Result<String> {
        let mut out = String::new();
        for line in self.to_text()?.lines() {
            match line
                .strip_prefix("# ")
                .and_then(|comment| comment.split_once("_total "))
            {
                Some((family, rest)) if family.matches(' ').count() == 1 => {
                    out.extend(["# ", family, " ", rest, "\n"]);
                }
                _ => out.extend([line, "\n"]),
            }
        }
        out.push_str("# EOF\n");
        Ok(out)
    }
}

struct Table<'a>(&'a Registry);

impl Table<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn counters_by<L: Label>(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> prometheus::Result<By<L, IntCounter>> {
        let counters = self.counters(name, help, label)?;
        Ok(By::new(|value| counters.with_label_values(&[value])))
    }

    /// A gauge that is computed when it is read.
    fn computed(
        &self,
        name: &str,
        help: &str,
        value: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let gauge = PullingGauge::new(name, help, Box::new(value))?;
        self.add(gauge).map(drop)
    }

    fn seconds_since(&self, name: &str, help: &str) -> prometheus::Result<SecondsSince> {
        let since = SecondsSince::default();
        let shown = since.clone();
        self.computed(name, help, move || shown.seconds())?;
        Ok(since)
    }

    fn age_max(&self, name: &str, help: &str) -> prometheus::Result<AgeMax> {
        let max = AgeMax::new();
        let shown = max.clone();
        self.computed(name, help, move || shown.seconds())?;
        Ok(max)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges_by<L: Label>(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> prometheus::Result<By<L, IntGauge>> {
        let gauges = self.add(IntGaugeVec::new(Opts::new(name, help), &[label])?)?;
        Ok(By::new(|value| gauges.with_label_values(&[value])))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(options)?)
    }
}

impl<L: Label, M> By<L, M> {
    fn new(series: impl Fn(&str) -> M) -> Self {
        Self {
            series: L::ALL.iter().map(|label| series(label.name())).collect(),
            label: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::float_cmp,
        reason = "whole numbers, and values that were put in"
    )]

    use std::fmt::Write as _;

    use super::*;
    use tokio::time::advance;

    fn value_of(metrics: &Metrics, series: &str) -> Option<f64> {
        let text = metrics.to_text().unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[tokio::test(start_paused = true)]
    async fn the_maximum_age_falls_to_zero_after_three_minutes() {
        let metrics = Metrics::new().unwrap();
        let max = || value_of(&metrics, "offender_update_age_seconds_max").unwrap();
        assert_eq!(max(), 0.0);
        advance(Duration::from_secs(50)).await;
        metrics.observe_age(Duration::from_secs(90));
        metrics.observe_age(Duration::from_secs(30));
        advance(Duration::from_mins(2)).await;
        assert_eq!(max(), 90.0);
        metrics.observe_age(Duration::from_secs(7));
        advance(Duration::from_secs(11)).await;
        assert_eq!(max(), 7.0);
        advance(Duration::from_hours(1)).await;
        assert_eq!(max(), 0.0);
        metrics.observe_age(Duration::from_secs(3));
        assert_eq!(max(), 3.0);
    }

    #[test]
    fn every_used_series_exists_with_zero_from_the_start() {
        let metrics = Metrics::new().unwrap();
        for series in [
            "offender_poll_total",
            "offender_updates_total{type=\"read\"}",
            "offender_updates_total{type=\"failed\"}",
            "offender_updates_total{type=\"permanentlyFailed\"}",
            "offender_updates_total{type=\"published\"}",
            "offender_update_age_seconds_count",
            "offender_update_age_seconds_sum",
            "offender_update_age_seconds_max",
            "offender_updates_redelivered_total{cause=\"claimed_again\"}",
            "offender_updates_settled_total",
            "offender_updates_left_locked_total{reason=\"lease_ran_out\"}",
            "offender_poll_results_total{result=\"empty\"}",
            "offender_rows_in_trouble{step=\"publish\"}",
            "offender_permanent_failure_brake_on",
            "offender_oldest_new_row_age_seconds",
            "telemetry_dropped_total{reason=\"not_accepted\"}",
        ] {
            assert_eq!(value_of(&metrics, series), Some(0.0), "{series}");
        }
    }

    /// The table has the help texts. It leaves out the metrics of the process, whose texts are the library's.
    #[test]
    fn the_documents_list_every_metric_with_its_labels_and_help() {
        let metrics = Metrics::new().unwrap();
        metrics.observe_call(Dependency::Auth, "token", CallOutcome::Ok, Duration::ZERO);
        metrics.build_info.with_label_values(&["1"]).set(1);
        let text = metrics.to_text().unwrap();
        let mut table = String::from("| metric | labels | meaning |\n|---|---|---|\n");
        for line in text
            .lines()
            .filter(|line| line.starts_with("# HELP ") && !line.contains(" process_"))
        {
            let (name, help) = line["# HELP ".len()..].split_once(' ').unwrap();
            let sample = text
                .lines()
                .find(|line| !line.starts_with('#') && line.starts_with(name));
            let labels = sample.and_then(|line| line.split_once('{')?.1.split_once('}'));
            let labels: Vec<&str> = labels
                .iter()
                .flat_map(|labels| labels.0.split(','))
                .filter_map(|label| label.split_once('='))
                .map(|(label, _)| label)
                .filter(|&label| label != "le")
                .collect();
            writeln!(table, "| `{name}` | {} | {help} |", labels.join(", ")).unwrap();
        }
        let document = include_str!("../docs/monitoring.md");
        assert!(
            document.contains(&table),
            "the table in docs/monitoring.md should be:\n{table}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ages_grow_without_an_update() {
        let metrics = Metrics::new().unwrap();
        let oldest = || value_of(&metrics, "offender_oldest_in_flight_seconds").unwrap();
        assert_eq!(oldest(), 0.0);
        metrics.oldest_held.set(Some(Instant::now()));
        let new_row = (Duration::from_secs(10), Instant::now());
        metrics.oldest_new_row.set_age(Some(new_row));
        advance(Duration::from_secs(7)).await;
        assert_eq!(oldest(), 7.0);
        let new_row = value_of(&metrics, "offender_oldest_new_row_age_seconds");
        assert_eq!(new_row, Some(17.0));
        metrics.oldest_held.set(None);
        assert_eq!(oldest(), 0.0);
        assert_eq!(
            value_of(&metrics, "offender_seconds_since_successful_poll"),
            Some(7.0)
        );
    }

    #[test]
    fn open_metrics_names_counter_families_without_total_and_ends_with_eof() {
        let text = Metrics::new().unwrap().to_open_metrics().unwrap();
        assert!(
            text.contains("# TYPE offender_poll counter\noffender_poll_total 0\n"),
            "{text}"
        );
        assert!(text.contains("# HELP offender_updates Rows read"));
        assert!(text.contains("# TYPE offender_update_age_seconds histogram\n"));
        assert!(text.ends_with("\n# EOF\n"));
    }
}
