//! A form that is sent twice acts once: after a double click, a second Enter, or a retry after a lost answer.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use super::Page;
use crate::http::MOST_BYTES;

/// How many forms are remembered.
const MOST_FORMS: usize = 1_000;

/// Each form, by its hash, and where the browser was sent after it was handled. A task that handles the form holds its lock.
#[derive(Default)]
pub(super) struct Once(Mutex<VecDeque<(u64, Form)>>);

type Form = Arc<tokio::sync::Mutex<Option<HeaderValue>>>;

/// Forms are equal if everything that was typed is equal, and the token of the page that they came from.
pub(super) async fn once(State(page): State<Page>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MOST_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let form = has_token(&body).then(|| {
        let mut hasher = DefaultHasher::new();
        (head.uri.path(), &body).hash(&mut hasher);
        hasher.finish()
    });
    let request = Request::from_parts(head, Body::from(body));
    // In a separate task: a browser that sends a form again closes the first connection, which would cancel the work.
    let acted = tokio::spawn(async move { page.0.once.act(form, request, next).await });
    acted
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Once {
    /// Handles equal forms one after the other, so that the second finds the result of the first. Others do not wait.
    async fn act(&self, form: Option<u64>, request: Request, next: Next) -> Response {
        let Some(form) = form else {
            return next.run(request).await;
        };
        let form = self.form(form);
        let mut acted = form.lock().await;
        if let Some(location) = &*acted {
            return (StatusCode::SEE_OTHER, [(LOCATION, location.clone())]).into_response();
        }
        let response = next.run(request).await;
        *acted = response.headers().get(LOCATION).cloned();
        response
    }

    fn form(&self, hash: u64) -> Form {
        let mut forms = self.0.lock();
        if let Some((_, same)) = forms.iter().find(|(other, _)| *other == hash) {
            return same.clone();
        }
        let form = Form::default();
        forms.push_front((hash, form.clone()));
        forms.truncate(MOST_FORMS);
        form
    }
}

fn has_token(body: &Bytes) -> bool {
    form_urlencoded::parse(body).any(|(name, value)| name == "token" && !value.is_empty())
}
