//! A stand-in for the ingestion endpoint of Application Insights, which keeps the items that it accepts.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::world::serve;

pub const KEY: &str = "11111111-2222-3333-4444-555555555555";

pub const SAMPLED_OUT: &str = "Telemetry sampled out.";

/// The answer to the next batches.
#[derive(Clone, Debug)]
pub enum Answer {
    Accept,
    Refuse(u16),
    /// Status and message of each item, repeated if there are more items. 200 is accepted.
    Items(&'static [(u16, &'static str)]),
    Redirect(u16, String),
    Hang,
}

pub struct Ingestion {
    address: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    accepted: Vec<Value>,
    /// All that was received, accepted or not.
    batches: Vec<Vec<Value>>,
    answer: Answer,
    /// After that, everything is accepted.
    answers_left: usize,
}

impl Ingestion {
    pub async fn start() -> Self {
        Self::answering(Answer::Accept, usize::MAX).await
    }

    /// Gives this answer `times` times, and then accepts.
    pub async fn answering(answer: Answer, times: usize) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            accepted: Vec::new(),
            batches: Vec::new(),
            answer,
            answers_left: times,
        }));
        let router = Router::new()
            .route("/v2/track", post(track))
            .route("/moved/v2/track", post(track))
            .with_state(shared.clone());
        let address = serve(router).await;
        Self { address, shared }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn connection_string(&self) -> String {
        format!(
            "InstrumentationKey={KEY};IngestionEndpoint={}/;LiveEndpoint=https://live/",
            self.address
        )
    }

    pub fn accepted(&self) -> Vec<Value> {
        self.shared.lock().unwrap().accepted.clone()
    }

    /// All that was received, accepted or not.
    pub fn batches(&self) -> Vec<Vec<Value>> {
        self.shared.lock().unwrap().batches.clone()
    }

    /// How many times each item was received.
    pub fn times_received(&self) -> Vec<usize> {
        let mut times = BTreeMap::new();
        for item in self.batches().concat() {
            *times.entry(item.to_string()).or_default() += 1;
        }
        times.into_values().collect()
    }

    /// From now on, every answer is a redirect to itself.
    pub fn redirect_to_itself(&self) {
        let here = format!("{}/v2/track", self.address);
        self.shared.lock().unwrap().answer = Answer::Redirect(308, here);
    }

    /// What was accepted of one kind: `Event`, `RemoteDependency`, `Request`, `Exception`, `Message`.
    pub fn of_kind(&self, kind: &str) -> Vec<Value> {
        let name = format!("Microsoft.ApplicationInsights.{kind}");
        let mut items = self.accepted();
        items.retain(|item| item["name"] == name.as_str());
        items
    }
}

async fn track(State(shared): State<Arc<Mutex<Shared>>>, body: Bytes) -> Response {
    // Like the real endpoint, it accepts both gzip and plain text.
    let mut text = String::new();
    if GzDecoder::new(&*body).read_to_string(&mut text).is_err() {
        text = String::from_utf8(body.to_vec()).unwrap();
    }
    let items: Vec<Value> = serde_json::from_str(&text).unwrap();
    let answer = {
        let mut shared = shared.lock().unwrap();
        shared.batches.push(items.clone());
        match shared.answers_left.checked_sub(1) {
            Some(left) => {
                shared.answers_left = left;
                shared.answer.clone()
            }
            None => Answer::Accept,
        }
    };
    let each: &[(u16, &str)] = match answer {
        Answer::Accept => &[(200, "")],
        Answer::Items(each) => each,
        Answer::Refuse(status) => return status_of(status).into_response(),
        Answer::Redirect(status, to) => {
            return (status_of(status), [(LOCATION, to)]).into_response();
        }
        Answer::Hang => std::future::pending().await,
    };
    let received = items.len();
    let mut errors = Vec::new();
    let mut accepted = Vec::new();
    for ((index, item), (status, message)) in items.into_iter().enumerate().zip(each.iter().cycle())
    {
        if *status == 200 {
            accepted.push(item);
        } else {
            errors.push(json!({"index": index, "statusCode": status, "message": message}));
        }
    }
    let said = json!({
        "itemsReceived": received,
        "itemsAccepted": accepted.len(),
        "errors": errors,
    });
    shared.lock().unwrap().accepted.extend(accepted);
    let status = if errors.is_empty() { 200 } else { 206 };
    (status_of(status), said.to_string()).into_response()
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap()
}
