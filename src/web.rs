//! The sidecar over HTTP: health, info, metrics and their description, and nothing else.

mod docs;

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
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::health::{Component, Health, Report, Status};
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

/// Everything on the only port.
pub fn on_one_port(pages: Pages) -> Router {
    let (endpoints, docs) = endpoints_and_docs(&pages);
    finished(endpoints.merge(docs), pages)
}

/// What is on the main port when there is a management port, and what on that one: everything there, and here the probes, which
/// the chart sends to port `http`, and the documentation, for those who come through the ingress.
pub fn on_two_ports(pages: Pages) -> (Router, Router) {
    let (endpoints, docs) = endpoints_and_docs(&pages);
    let main = docs
        .clone()
        .route("/health/ping", get(|pages| probe("ping", pages)))
        .route("/health/liveness", get(|pages| probe("liveness", pages)))
        .route("/health/readiness", get(|pages| probe("readiness", pages)));
    (
        finished(main, pages.clone()),
        finished(endpoints.merge(docs), pages),
    )
}

fn endpoints_and_docs(pages: &Pages) -> (Router<Pages>, Router<Pages>) {
    let version = pages.info["build"]["version"].as_str().unwrap_or_default();
    let (endpoints, description) = OpenApiRouter::with_openapi(docs::description(version))
        .routes(routes!(health))
        .routes(routes!(component))
        .routes(routes!(info))
        .routes(routes!(prometheus))
        .split_for_parts();
    (endpoints, docs::pages(&description))
}

fn finished(router: Router<Pages>, pages: Pages) -> Router {
    router
        .fallback(unauthorised)
        .method_not_allowed_fallback(unauthorised)
        .layer(map_response(with_security_headers))
        .with_state(pages)
}

/// Health of the service and everything it depends on.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "All is well", body = Report, content_type = ACTUATOR_JSON),
    (status = 503, description = "A component is down", body = Report, content_type = ACTUATOR_JSON),
))]
async fn health(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    match pages.health.report().await {
        Some(report) => actuator(report.status, &report, &headers),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Health of one component: liveness, readiness and ping are for probes, the others are those of /health.
#[utoipa::path(get, path = "/health/{component}", tag = "health", params(
    ("component" = String, Path, description = "Name of the component", example = "liveness"),
), responses(
    (status = 200, description = "It is well", body = Component, content_type = ACTUATOR_JSON),
    (status = 503, description = "It is down, or the service stops", body = Component, content_type = ACTUATOR_JSON),
    (status = 404, description = "There is none of this name"),
))]
async fn component(
    // An error where the path is not text: no component's name.
    name: Result<Path<String>, PathRejection>,
    pages: (State<Pages>, HeaderMap),
) -> Response {
    match name {
        Ok(Path(name)) => probe(&name, pages).await,
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn probe(name: &str, (State(pages), headers): (State<Pages>, HeaderMap)) -> Response {
    match pages.health.component(name).await {
        Some(component) => actuator(component.status, &component, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
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

/// What runs here: version, build, product.
#[utoipa::path(get, path = "/info", tag = "info", responses(
    (status = 200, description = "Version, build and product", body = Object, content_type = "application/json",
        example = json!({"build": {"name": "probation-offender-events", "version": "2026-11-24.1.abcdef"}, "productId": "default"})),
))]
async fn info(State(pages): State<Pages>) -> Response {
    axum::Json(&*pages.info).into_response()
}

/// Metrics for Prometheus, as text or, when asked for, as OpenMetrics.
#[utoipa::path(get, path = "/prometheus", tag = "metrics", responses(
    (status = 200, description = "Every metric with its help", body = String, content_type = "text/plain"),
))]
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
