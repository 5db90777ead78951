//! The sidecar over HTTP: health, info and metrics, and nothing else.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderName, HeaderValue, PRAGMA,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::Value;

use crate::health::{Component, Health, Status};
use crate::metrics::Metrics;

const ACTUATOR_JSON: &str = "application/vnd.spring-boot.actuator.v3+json";
const OPEN_METRICS: &str = "application/openmetrics-text";

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Health of the service.
    pub health: Arc<Health>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// What `/info` answers.
    pub info: Arc<Value>,
}

/// Everything: for the only port, or for the management port.
pub fn management(pages: Pages) -> Router {
    let router = Router::new()
        .route("/health", get(health))
        .route("/health/{component}", get(component))
        .route("/info", get(info))
        .route("/prometheus", get(prometheus));
    finished(router, pages)
}

/// What stays on the main port when there is a management port: the probes, which the chart sends to port `http`.
pub fn probes_only(pages: Pages) -> Router {
    let router = Router::new()
        .route("/health/ping", get(|pages| probe("ping", pages)))
        .route("/health/liveness", get(|pages| probe("liveness", pages)))
        .route("/health/readiness", get(|pages| probe("readiness", pages)));
    finished(router, pages)
}

fn finished(router: Router<Pages>, pages: Pages) -> Router {
    router
        .fallback(unauthorised)
        .method_not_allowed_fallback(unauthorised)
        .layer(map_response(with_security_headers))
        .with_state(pages)
}

async fn health(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    match pages.health.report().await {
        Some(report) => actuator(report.status, &report, &headers),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn component(
    State(pages): State<Pages>,
    // An error where the path is not text: no component's name.
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Path(name)) = name else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match pages.health.component(&name).await {
        Some(component) => component_answer(&component, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn probe(name: &'static str, (State(pages), headers): (State<Pages>, HeaderMap)) -> Response {
    match pages.health.component(name).await {
        Some(component) => component_answer(&component, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn component_answer(component: &Component, headers: &HeaderMap) -> Response {
    actuator(component.status, component, headers)
}

fn actuator(status: Status, body: &impl Serialize, headers: &HeaderMap) -> Response {
    let code = if status == Status::Up {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let plain = accepts(headers, "application/json") && !accepts(headers, ACTUATOR_JSON);
    let content_type = if plain {
        "application/json"
    } else {
        ACTUATOR_JSON
    };
    match serde_json::to_string(body) {
        Ok(json) => (code, [(CONTENT_TYPE, content_type)], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn info(State(pages): State<Pages>) -> Response {
    axum::Json(&*pages.info).into_response()
}

async fn prometheus(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let (content_type, text) = if accepts(&headers, OPEN_METRICS) {
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            pages.metrics.to_open_metrics(),
        )
    } else {
        (
            "text/plain; version=0.0.4; charset=utf-8",
            pages.metrics.to_text(),
        )
    };
    match text {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn accepts(headers: &HeaderMap, content_type: &str) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains(content_type))
    })
}

/// What a Spring resource server answers to whoever asks for anything else without a token.
async fn unauthorised() -> Response {
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response()
}

async fn with_security_headers(mut response: Response) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            CACHE_CONTROL,
            "no-cache, no-store, max-age=0, must-revalidate",
        ),
        (PRAGMA, "no-cache"),
        (EXPIRES, "0"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
