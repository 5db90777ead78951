//! The ingestion endpoint: what its answers mean for each item, and which items are sent again.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use opentelemetry_http::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout_at};

use super::queue::Count;
use super::redirect;
use crate::config::InsightsSettings;
use crate::http::{self, HttpClient};

const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The limit of a batch with all its retries.
const BATCH_LIMIT: Duration = Duration::from_secs(30);
/// The pause before the first retry of a batch. It doubles with each retry, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The message of an item that ingestion sampling has taken out.
const SAMPLED_OUT: &str = "Telemetry sampled out.";

#[derive(Debug)]
pub(super) struct Ingestion {
    client: HttpClient,
    url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Accepted, or dropped by the sampling that the resource is set to.
    Done,
    /// Not accepted for now.
    Again,
    Refused,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    items_accepted: Option<usize>,
    errors: Vec<ItemError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemError {
    index: usize,
    status_code: u16,
    message: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    /// The indices of the items to send again.
    again: Vec<usize>,
    refused: usize,
    /// The status of the first refusal.
    refused_with: Option<u16>,
}

fn verdict(status: u16, message: Option<&str>) -> Verdict {
    let is_sampled_out = message.is_some_and(|message| message.eq_ignore_ascii_case(SAMPLED_OUT));
    match status {
        _ if is_sampled_out => Verdict::Done,
        200 => Verdict::Done,
        408 | 429 | 439 | 500 | 503 => Verdict::Again,
        _ => Verdict::Refused,
    }
}

fn judge(status: u16, body: &[u8], items: usize) -> Judgement {
    let said: Said = serde_json::from_slice(body).unwrap_or_default();
    let of_request = said.errors.iter().filter(|error| error.index < items);
    let listed: BTreeMap<_, _> = of_request.map(|error| (error.index, error)).collect();
    let mut judgement = Judgement::default();
    let mut refuse = |count, status| {
        judgement.refused += count;
        judgement.refused_with.get_or_insert(status);
    };
    for index in 0..items {
        // If some items are listed, the others were accepted.
        let (status, message) = match listed.get(&index) {
            Some(error) => (error.status_code, error.message.as_deref()),
            None if listed.is_empty() => (status, None),
            None => (200, None),
        };
        match verdict(status, message) {
            Verdict::Done => {}
            Verdict::Again => judgement.again.push(index),
            Verdict::Refused => refuse(1, status),
        }
    }
    if let Some(accepted) = said.items_accepted
        && (status == 200 || !listed.is_empty())
    {
        let missing = (items - listed.len()).saturating_sub(accepted);
        if missing > 0 {
            refuse(missing, status);
        }
    }
    judgement
}

impl Ingestion {
    pub fn new(settings: &InsightsSettings) -> anyhow::Result<Self> {
        Ok(Self {
            client: HttpClient::with_redirects(REQUEST_LIMIT, redirect::within_the_site)?,
            url: format!("{}/v2/track", settings.endpoint),
        })
    }

    /// Sends a compressed JSON array of `items` items until each is accepted or refused, or the time is over. An error
    /// says why items were dropped. All items are counted.
    pub async fn deliver(
        &self,
        mut body: Bytes,
        mut items: usize,
        count: &Count,
    ) -> Result<(), String> {
        let deadline = Instant::now() + BATCH_LIMIT;
        let mut pause = FIRST_PAUSE;
        let mut dropped = Ok(());
        loop {
            let cause = match timeout_at(deadline, self.post(body.clone())).await {
                Err(_) => format!("not accepted within {BATCH_LIMIT:?}"),
                Ok(Err(cause)) => cause,
                Ok(Ok((status, said))) => {
                    let judged = judge(status, &said, items);
                    count.sent(items - judged.again.len(), judged.refused, "refused");
                    if let Some(status) = judged.refused_with {
                        dropped = Err(answered(status));
                    }
                    if judged.again.is_empty() {
                        return dropped;
                    }
                    if judged.again.len() < items {
                        items = judged.again.len();
                        body = only(&body, &judged.again).unwrap_or_default();
                    }
                    answered(status)
                }
            };
            let pause_now = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if body.is_empty() || Instant::now() + pause_now >= deadline {
                count.sent(items, items, "not_accepted");
                return Err(cause);
            }
            sleep(pause_now).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn post(&self, body: Bytes) -> Result<(u16, Vec<u8>), String> {
        let request = self.client.request(Method::POST, &self.url).body(body);
        let request = request
            .timeout(REQUEST_LIMIT)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_ENCODING, "gzip");
        let answer = self.client.send(request).await.map_err(http::not_answered);
        let answer = answer.map_err(|error| error.cause)?;
        let status = answer.status().as_u16();
        let said = self
            .client
            .body(answer)
            .await
            .map_err(|error| error.cause)?;
        Ok((status, said))
    }

    /// Sends no items, to see whether the endpoint answers. A refusal counts as an answer, too.
    pub async fn try_it(&self) -> Result<(), String> {
        match self
            .post(compressed(b"[]").map_err(|error| error.to_string())?)
            .await?
            .0
        {
            status @ (300..400 | 404 | 500..) => Err(answered(status)),
            _ => Ok(()),
        }
    }
}

fn answered(status: u16) -> String {
    match status {
        300..400 => format!("answered {status}, a redirect that is not followed"),
        _ => format!("answered {status}"),
    }
}

fn only(body: &[u8], indices: &[usize]) -> anyhow::Result<Bytes> {
    let mut text = String::new();
    GzDecoder::new(body).read_to_string(&mut text)?;
    let items: Vec<&RawValue> = serde_json::from_str(&text)?;
    let some: Vec<_> = indices
        .iter()
        .filter_map(|index| items.get(*index))
        .collect();
    Ok(compressed(&serde_json::to_vec(&some)?)?)
}

fn compressed(text: &[u8]) -> std::io::Result<Bytes> {
    let mut body = Vec::new();
    GzEncoder::new(text, Compression::default()).read_to_end(&mut body)?;
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::insights::queue;
    use crate::metrics::Metrics;

    #[test]
    fn an_answer_decides_each_item() {
        let judged = |status, body: &str| {
            let judgement = judge(status, body.as_bytes(), 3);
            let Judgement { again, refused, .. } = judgement;
            (again, refused, judgement.refused_with)
        };
        let all = || vec![0, 1, 2];
        let cases = [
            // The whole request, with and without a readable body.
            (
                200,
                r#"{"itemsReceived":3,"itemsAccepted":3,"errors":[]}"#,
                (vec![], 0, None),
            ),
            (200, "", (vec![], 0, None)),
            (408, "", (all(), 0, None)),
            (429, "", (all(), 0, None)),
            (439, "", (all(), 0, None)),
            (500, "<html>", (all(), 0, None)),
            (
                503,
                r#"{"itemsReceived":3,"itemsAccepted":0,"errors":[]}"#,
                (all(), 0, None),
            ),
            (206, "nonsense", (vec![], 3, Some(206))),
            (308, "", (vec![], 3, Some(308))),
            (400, "", (vec![], 3, Some(400))),
            (402, "", (vec![], 3, Some(402))),
            (404, "", (vec![], 3, Some(404))),
            // Item by item.
            (
                206,
                r#"{"itemsReceived":3,"itemsAccepted":2,"errors":[{"index":1,"statusCode":206,"message":"Telemetry sampled out."}]}"#,
                (vec![], 0, None),
            ),
            (
                206,
                r#"{"itemsAccepted":1,"errors":[{"index":0,"statusCode":503},{"index":2,"statusCode":400,"message":null}]}"#,
                (vec![0], 1, Some(400)),
            ),
            (
                500,
                r#"{"itemsAccepted":2,"errors":[{"index":2,"statusCode":500},{"index":3,"statusCode":500}]}"#,
                (vec![2], 0, None),
            ),
            // The list explains fewer failures than the counts say.
            (
                206,
                r#"{"itemsAccepted":0,"errors":[{"index":0,"statusCode":429}]}"#,
                (vec![0], 2, Some(206)),
            ),
            (
                200,
                r#"{"itemsAccepted":1,"errors":[]}"#,
                (vec![], 2, Some(200)),
            ),
        ];
        for (status, body, expected) in cases {
            assert_eq!(judged(status, body), expected, "{status} {body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_takes_30_seconds_at_most() {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingestion = Ingestion {
            client: HttpClient::new(REQUEST_LIMIT).unwrap(),
            url: format!("http://{}", hanging.local_addr().unwrap()),
        };
        let dropped = Metrics::new().unwrap().telemetry_dropped;
        let (_, _, count) = queue::new(dropped.clone());
        let started = Instant::now();
        let body = compressed(b"[1,2,3]").unwrap();
        assert!(ingestion.deliver(body, 3, &count).await.is_err());
        assert!(started.elapsed() <= BATCH_LIMIT, "{:?}", started.elapsed());
        assert_eq!(dropped.with_label_values(&["not_accepted"]).get(), 3);
    }
}
