//! The service's `/prometheus` and `/health`, requested every two seconds and kept for some minutes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
/// Five minutes.
pub(super) const MOST_SAMPLES: usize = 150;

/// Clones share their state.
#[derive(Clone, Default)]
pub(super) struct VitalSigns(Arc<Mutex<Record>>);

#[derive(Clone, Default)]
pub(super) struct Record {
    /// Where the service is, if that is known.
    pub(super) address: Option<String>,
    /// Where a browser reaches it.
    pub(super) link: Option<String>,
    /// `None` if the service did not answer.
    pub(super) samples: VecDeque<Option<Sample>>,
    pub(super) components: Vec<Component>,
    /// Why the service cannot be reached at present.
    pub(super) trouble: Option<String>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) age_sum: f64,
    pub(super) age_count: f64,
    pub(super) age_max: f64,
    pub(super) published: f64,
    pub(super) failed: f64,
    pub(super) permanently_failed: f64,
    pub(super) in_flight: f64,
    pub(super) places_lost: f64,
    polls_answered: f64,
    polls_failed: f64,
    polls_refused: f64,
}

/// How the latest poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poll {
    /// With rows, without rows, or with a conflict.
    Answered,
    Failed,
    /// community-api does not accept the token, or hmpps-auth issues none.
    Refused,
    /// No poll has ended since the first sample.
    Unknown,
}

/// A part of the service's health.
#[derive(Clone)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) status: String,
    /// The error, if it is not up.
    pub(super) error: String,
}

impl VitalSigns {
    pub(super) fn watch(&self, address: String, link: String) {
        *self.0.lock() = Record {
            address: Some(address),
            link: Some(link),
            ..Record::default()
        };
    }

    pub(super) fn record(&self) -> Record {
        self.0.lock().clone()
    }

    /// Requests both repeatedly, until it is dropped.
    pub(super) async fn follow(self, http: reqwest::Client) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(address) = self.0.lock().address.clone() else {
                continue;
            };
            let asked = tokio::try_join!(ask_metrics(&http, &address), ask_health(&http, &address));
            let mut record = self.0.lock();
            if record.samples.len() == MOST_SAMPLES {
                record.samples.pop_front();
            }
            match asked {
                Ok((sample, components)) => {
                    record.samples.push_back(Some(sample));
                    record.components = components;
                    record.trouble = None;
                }
                Err(error) => {
                    record.samples.push_back(None);
                    record.components.clear();
                    record.trouble = Some(format!("{error:#}"));
                }
            }
        }
    }
}

impl Record {
    /// The latest sample, unless the service has stopped answering.
    pub(super) fn now(&self) -> Option<&Sample> {
        self.samples.back()?.as_ref()
    }

    /// Found by the counter that was the last to grow.
    pub(super) fn latest_poll(&self) -> Poll {
        let samples: Vec<&Sample> = self.samples.iter().flatten().collect();
        let grown = |pair: &[&Sample]| {
            let [before, now] = pair else { return None };
            if now.polls_answered > before.polls_answered {
                Some(Poll::Answered)
            } else if now.polls_refused > before.polls_refused {
                Some(Poll::Refused)
            } else if now.polls_failed > before.polls_failed {
                Some(Poll::Failed)
            } else {
                None
            }
        };
        samples
            .windows(2)
            .rev()
            .find_map(grown)
            .unwrap_or(Poll::Unknown)
    }
}

async fn get(http: &reqwest::Client, address: &str, path: &str) -> Result<String> {
    let answer = http
        .get(format!("{address}{path}"))
        .timeout(PATIENCE)
        .send()
        .await;
    Ok(answer.map_err(reqwest::Error::without_url)?.text().await?)
}

async fn ask_metrics(http: &reqwest::Client, address: &str) -> Result<Sample> {
    Ok(Sample::read(&get(http, address, "/prometheus").await?))
}

/// Reads the answer with any status, since a 503 has the components, too.
async fn ask_health(http: &reqwest::Client, address: &str) -> Result<Vec<Component>> {
    let health: Value = serde_json::from_str(&get(http, address, "/health").await?)
        .context("the answer from /health is not JSON")?;
    let components = health["components"].as_object().into_iter().flatten();
    Ok(components
        .map(|(name, component)| Component {
            name: name.clone(),
            status: component["status"].as_str().unwrap_or("unknown").to_owned(),
            error: component["details"]["error"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        })
        .collect())
}

impl Sample {
    fn read(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else {
                continue;
            };
            let field = match series {
                "offender_update_age_seconds_sum" => &mut sample.age_sum,
                "offender_update_age_seconds_count" => &mut sample.age_count,
                "offender_update_age_seconds_max" => &mut sample.age_max,
                "offender_updates_total{type=\"published\"}" => &mut sample.published,
                "offender_updates_total{type=\"failed\"}" => &mut sample.failed,
                "offender_updates_total{type=\"permanentlyFailed\"}" => {
                    &mut sample.permanently_failed
                }
                "offender_updates_in_flight" => &mut sample.in_flight,
                "offender_places_lost" => &mut sample.places_lost,
                "offender_poll_results_total{result=\"empty\"}"
                | "offender_poll_results_total{result=\"found\"}"
                | "offender_poll_results_total{result=\"contended\"}" => &mut sample.polls_answered,
                "offender_poll_results_total{result=\"failed\"}" => &mut sample.polls_failed,
                "offender_poll_results_total{result=\"no_token\"}"
                | "offender_poll_results_total{result=\"unauthorised\"}" => {
                    &mut sample.polls_refused
                }
                _ => continue,
            };
            *field += value;
        }
        sample
    }
}

/// A number for each sample, computed from it and the one before.
pub(super) fn series(
    record: &Record,
    value: impl Fn(&Sample, &Sample) -> Option<f64>,
) -> Vec<Option<f64>> {
    let mut before: Option<Sample> = None;
    let one = |sample: &Option<Sample>| {
        let now = (*sample)?;
        let value = value(&before.unwrap_or(now), &now);
        before = Some(now);
        value
    };
    record.samples.iter().map(one).collect()
}

/// The mean age of the rows that were published between two samples.
pub(super) fn age_between(before: &Sample, now: &Sample) -> Option<f64> {
    let count = now.age_count - before.age_count;
    (count > 0.0).then(|| (now.age_sum - before.age_sum) / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_age_is_that_of_the_rows_published_between_two_samples() {
        let sample = |count: u8, sum: u8| {
            Some(Sample::read(&format!(
                "# HELP offender_update_age_seconds_sum no sample\n\
                 offender_update_age_seconds_sum {sum}\noffender_update_age_seconds_count {count}\n\
                 offender_updates_total{{type=\"published\"}} 7\n"
            )))
        };
        let record = Record {
            samples: [sample(1, 2), sample(1, 2), None, sample(3, 10)].into(),
            ..Record::default()
        };
        let ages = series(&record, age_between);
        assert_eq!(ages, [None, None, None, Some(4.0)]);
        assert_eq!(series(&record, |_, now| Some(now.published))[3], Some(7.0));
    }

    #[test]
    fn the_latest_poll_is_the_one_whose_counter_has_grown() {
        let sample = |empty: u8, failed: u8, unauthorised: u8| {
            Some(Sample::read(&format!(
                "offender_poll_results_total{{result=\"empty\"}} {empty}\n\
                 offender_poll_results_total{{result=\"failed\"}} {failed}\n\
                 offender_poll_results_total{{result=\"unauthorised\"}} {unauthorised}\n"
            )))
        };
        for (samples, latest) in [
            (vec![], Poll::Unknown),
            (vec![sample(7, 3, 1)], Poll::Unknown),
            (vec![sample(7, 3, 1), sample(8, 3, 1)], Poll::Answered),
            (
                vec![sample(7, 3, 1), sample(7, 4, 1), None, sample(7, 4, 1)],
                Poll::Failed,
            ),
            (
                vec![sample(7, 3, 1), sample(7, 4, 1), sample(7, 4, 2)],
                Poll::Refused,
            ),
        ] {
            let record = Record {
                samples: samples.into(),
                ..Record::default()
            };
            assert_eq!(record.latest_poll(), latest);
        }
    }
}
