//! A stand-in for the ingestion endpoint of Application Insights, which keeps what it accepts.

use std::io::Read;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const KEY: &str = "11111111-2222-3333-4444-555555555555";

/// What becomes of the next batches.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Accept,
    Refuse(u16),
    /// All but the first are accepted.
    RefuseTheFirst(u16),
    Hang,
}

#[derive(Clone)]
pub struct Ingestion {
    address: String,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    accepted: Vec<Value>,
    batches: usize,
    answer: Answer,
    /// Then everything is accepted.
    answers_left: usize,
}

impl Ingestion {
    pub async fn start() -> Self {
        Self::answering(Answer::Accept, usize::MAX).await
    }

    /// Gives this answer so many times, and then accepts.
    pub async fn answering(answer: Answer, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingestion = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            shared: Arc::new(Mutex::new(Shared {
                accepted: Vec::new(),
                batches: 0,
                answer,
                answers_left: times,
            })),
        };
        let router = Router::new()
            .route("/v2/track", post(track))
            .with_state(ingestion.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        ingestion
    }

    pub fn connection_string(&self) -> String {
        format!(
            "InstrumentationKey={KEY};IngestionEndpoint={}/;LiveEndpoint=https://live/",
            self.address
        )
    }

    /// Everything that was accepted so far.
    pub fn accepted(&self) -> Vec<Value> {
        self.shared.lock().unwrap().accepted.clone()
    }

    pub fn batches(&self) -> usize {
        self.shared.lock().unwrap().batches
    }

    /// What was accepted of one kind: `Event`, `RemoteDependency`, `Request`, `Exception`, `Message`.
    pub fn of_kind(&self, kind: &str) -> Vec<Value> {
        let name = format!("Microsoft.ApplicationInsights.{kind}");
        let mut items = self.accepted();
        items.retain(|item| item["name"] == name.as_str());
        items
    }
}

async fn track(State(ingestion): State<Ingestion>, body: Bytes) -> (StatusCode, String) {
    // As the real one, it takes both.
    let mut text = String::new();
    if GzDecoder::new(&*body).read_to_string(&mut text).is_err() {
        text = String::from_utf8(body.to_vec()).unwrap();
    }
    let items: Vec<Value> = serde_json::from_str(&text).unwrap();
    let answer = {
        let mut shared = ingestion.shared.lock().unwrap();
        shared.batches += 1;
        match shared.answers_left.checked_sub(1) {
            Some(left) => {
                shared.answers_left = left;
                shared.answer
            }
            None => Answer::Accept,
        }
    };
    let received = items.len();
    let (status, from, errors) = match answer {
        Answer::Accept => (200, 0, json!([])),
        Answer::RefuseTheFirst(code) => {
            let error = json!([{"index": 0, "statusCode": code, "message": "refused"}]);
            (206, 1, error)
        }
        Answer::Refuse(status) => return (StatusCode::from_u16(status).unwrap(), String::new()),
        Answer::Hang => std::future::pending().await,
    };
    let accepted = items.into_iter().skip(from);
    ingestion.shared.lock().unwrap().accepted.extend(accepted);
    let said = json!({
        "itemsReceived": received,
        "itemsAccepted": received - from,
        "errors": errors,
    });
    (StatusCode::from_u16(status).unwrap(), said.to_string())
}
