//! Every metric of the service, as typed fields over a registry of their own; the help texts are what the operator reads.

mod gauges;
mod last_claim;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::time::Instant;

use self::gauges::AgeMax;
pub use self::gauges::SecondsSince;
pub use self::last_claim::LastClaim;

/// The service's metrics. Every series whose labels are known beforehand exists with 0 from the start, so that a rate over
/// it is right from the first event on.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// One a poll, not one a row.
    pub polls: IntCounter,
    /// How polls ended.
    pub poll_results: IntCounterVec,
    /// Since community-api last answered a claim.
    pub since_claim_answered: SecondsSince,
    /// How the last claim went; no metric, but shown by `/health`.
    pub last_claim: LastClaim,
    /// Rows claimed.
    pub read: IntCounter,
    /// Rows left locked for a second chance, since no events could be made of them.
    pub failed: IntCounter,
    /// Rows marked as permanently failed.
    pub permanently_failed: IntCounter,
    /// Events accepted by the topic.
    pub published: IntCounter,
    /// From the change in Delius to its events on the topic.
    pub age: Histogram,
    age_max: AgeMax,
    /// Rows claimed and not yet settled.
    pub in_flight: IntGauge,
    /// Since the oldest of them was claimed.
    pub oldest_in_flight: SecondsSince,
    /// 1 while trouble has stopped the claims.
    pub claims_suspended: IntGauge,
    /// 1 for each step that nobody gets through, meanwhile.
    pub claims_suspended_by: IntGaugeVec,
    /// 1 while the brake stops rows from being marked as permanently failed.
    pub brake_on: IntGauge,
    /// Rows that were given up for this time, by reason.
    pub left_locked: IntCounterVec,
    /// Rows whose events may have been delivered twice, by cause.
    pub redelivered: IntCounterVec,
    /// Publishes that were answered only after the row's lease had ended.
    pub lease_overruns: IntCounter,
    /// Durations of calls, by dependency, call and outcome.
    pub calls: HistogramVec,
    /// What SNS answered for each event.
    pub publish_results: IntCounterVec,
    /// Always 1, with the version as its label.
    pub build_info: IntGaugeVec,
    /// What Application Insights was not told, by reason.
    pub telemetry_dropped: IntCounterVec,
    /// Lines that the log could not be given.
    pub log_lines_lost: IntCounter,
}

/// How a poll can end.
pub const POLL_RESULTS: &[&str] = &["empty", "found", "contended", "failed", "unauthorised"];

/// Why a row was left locked to come back later.
pub const LEFT_LOCKED_REASONS: &[&str] = &[
    "gave_way",
    "lease_ran_out",
    "refused",
    "brake",
    "not_visible",
    "unreadable",
    "panicked",
];

/// Why a row's events may have been delivered more than once, as far as the pod itself can know.
pub const REDELIVERY_CAUSES: &[&str] = &["claimed_again", "answer_lost", "lease_overrun"];

/// Why Application Insights was not told something.
pub const TELEMETRY_DROP_REASONS: &[&str] = &["queue_full", "not_accepted", "stopped"];

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// If two metrics had the same name, which a test rules out.
    #[expect(
        clippy::too_many_lines,
        reason = "a list, one metric after the other with its help text"
    )]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let updates = register(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "offender_updates_total",
                    "Rows read, failed (kept for a second chance) and permanentlyFailed, and events published. \
                     read without published for minutes: look at claims suspended and the log.",
                ),
                &["type"],
            )?,
        )?;
        let metrics = Self {
            polls: register(
                &registry,
                IntCounter::new("offender_poll_total", "Polls of community-api. No increase: the pod does not poll.")?,
            )?,
            poll_results: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "offender_poll_results_total",
                        "Polls by how they ended: empty, found, contended (others had the same rows), failed, unauthorised. \
                         failed and unauthorised only: the log has the cause.",
                    ),
                    &["result"],
                )?,
            )?,
            last_claim: LastClaim::default(),
            since_claim_answered: register(
                &registry,
                SecondsSince::new(
                    "offender_seconds_since_successful_poll",
                    "Since community-api last answered a claim, or since the start. More than a few intervals: polls fail, or \
                     claims are suspended.",
                    Some(Instant::now()),
                )?,
            )?,
            read: updates.with_label_values(&["read"]),
            failed: updates.with_label_values(&["failed"]),
            permanently_failed: updates.with_label_values(&["permanentlyFailed"]),
            published: updates.with_label_values(&["published"]),
            age: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "offender_update_age_seconds",
                        "From the change in Delius to its events on the topic. Usually 10 to 15 seconds.",
                    )
                    .buckets(vec![1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0]),
                )?,
            )?,
            age_max: register(&registry, AgeMax::new()?)?,
            in_flight: register(
                &registry,
                IntGauge::new("offender_updates_in_flight", "Rows claimed by this pod and not yet settled.")?,
            )?,
            oldest_in_flight: register(
                &registry,
                SecondsSince::new(
                    "offender_oldest_in_flight_seconds",
                    "Since the oldest row in flight was claimed, 0 without one. Usually under a second; up to 95 % of the lock \
                     while something fails.",
                    None,
                )?,
            )?,
            claims_suspended: register(
                &registry,
                IntGauge::new(
                    "offender_claims_suspended",
                    "1 while calls for claimed rows fail and no new rows are claimed. The log names the call.",
                )?,
            )?,
            claims_suspended_by: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "offender_claims_suspended_by",
                        "1 for each step that suspends the claims: identifiers and delete are community-api's, publish is SNS'.",
                    ),
                    &["step"],
                )?,
            )?,
            brake_on: register(
                &registry,
                IntGauge::new(
                    "offender_permanent_failure_brake_on",
                    "1 while too many rows would have been given up for good and none is: check what community-api answers.",
                )?,
            )?,
            left_locked: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("offender_updates_left_locked_total", "Rows left locked, to come back when the lock runs out."),
                    &["reason"],
                )?,
            )?,
            redelivered: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "offender_updates_redelivered_total",
                        "Rows whose events may have been delivered more than once, with the same id attribute each time.",
                    ),
                    &["cause"],
                )?,
            )?,
            lease_overruns: register(
                &registry,
                IntCounter::new(
                    "offender_update_lease_overruns_total",
                    "Publishes answered after the row's lease had ended: the pod was stalled.",
                )?,
            )?,
            calls: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("offender_call_seconds", "Duration of calls to other services. outcome timed_out: given up by the service. A rate of any but ok and not_found: \
                         that service has trouble.")
                        .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
                    &["dependency", "call", "outcome"],
                )?,
            )?,
            publish_results: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "offender_publish_results_total",
                        "Events by what SNS answered: accepted, its error code, or no_answer.",
                    ),
                    &["result"],
                )?,
            )?,
            build_info: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("offender_events_build_info", "Always 1; the label tells which version runs."),
                    &["version"],
                )?,
            )?,
            telemetry_dropped: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "telemetry_dropped_total",
                        "Items that Application Insights did not get: its endpoint is slow (queue_full), does not take them \
                         (not_accepted; the log says why), or did not before the pod ended (stopped).",
                    ),
                    &["reason"],
                )?,
            )?,
            log_lines_lost: register(
                &registry,
                IntCounter::new(
                    "log_lines_lost_total",
                    "Lines that are missing from the log, since it could not be written quickly enough. The node, or whatever \
                     reads the log, is overloaded.",
                )?,
            )?,
            registry,
        };
        for result in POLL_RESULTS {
            metrics.poll_results.with_label_values(&[result]);
        }
        metrics.publish_results.with_label_values(&["accepted"]);
        for reason in LEFT_LOCKED_REASONS {
            metrics.left_locked.with_label_values(&[reason]);
        }
        for cause in REDELIVERY_CAUSES {
            metrics.redelivered.with_label_values(&[cause]);
        }
        for reason in TELEMETRY_DROP_REASONS {
            metrics.telemetry_dropped.with_label_values(&[reason]);
        }
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(metrics)
    }

    /// Records the age of a row whose events have just been published.
    pub fn observe_age(&self, age: Duration) {
        self.age.observe(age.as_secs_f64());
        self.age_max.observe(age.as_secs_f64());
    }

    /// Starts to measure a call. If the answer is dropped without an outcome, the caller has stopped waiting: `timed_out`.
    #[must_use]
    pub fn start_call(&self, dependency: &'static str, call: &'static str) -> CallTimer<'_> {
        CallTimer {
            calls: &self.calls,
            labels: [dependency, call, "timed_out"],
            started: Instant::now(),
        }
    }

    /// All metrics in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// If the registry cannot be written as text, which would be a fault of the library.
    pub fn to_text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// All metrics in OpenMetrics' text format 1.0.0, in which a counter's family has no `_total` at its end.
    ///
    /// # Errors
    /// As [`Self::to_text`].
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

/// A call under way.
#[derive(Debug)]
pub struct CallTimer<'a> {
    calls: &'a HistogramVec,
    labels: [&'static str; 3],
    started: Instant,
}

impl CallTimer<'_> {
    /// Notes how the call ended.
    pub fn ended(mut self, outcome: &'static str) {
        self.labels[2] = outcome;
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.calls.with_label_values(&self.labels).observe(seconds);
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
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
    async fn the_maximum_age_stays_two_to_three_minutes_and_then_falls_to_zero() {
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
    fn all_series_that_dashboards_use_exist_with_zero_from_the_start() {
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
        ] {
            assert_eq!(value_of(&metrics, series), Some(0.0), "{series}");
        }
    }

    /// The README's table, from the help texts; without those of the process, which are the library's.
    #[test]
    fn the_readme_lists_every_metric_with_its_labels_and_help() {
        let metrics = Metrics::new().unwrap();
        metrics.start_call("dependency", "call").ended("ok");
        metrics.build_info.with_label_values(&["1"]).set(1);
        metrics.claims_suspended_by.with_label_values(&["delete"]);
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
        let readme = include_str!("../README.md");
        assert!(
            readme.contains(&table),
            "the README's table should be:\n{table}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_seconds_since_a_moment_grow_while_nothing_happens_and_are_zero_without_one() {
        let metrics = Metrics::new().unwrap();
        let oldest = || value_of(&metrics, "offender_oldest_in_flight_seconds").unwrap();
        assert_eq!(oldest(), 0.0);
        metrics.oldest_in_flight.set(Some(Instant::now()));
        advance(Duration::from_secs(7)).await;
        assert_eq!(oldest(), 7.0);
        metrics.oldest_in_flight.set(None);
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
