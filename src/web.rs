//! The service over HTTP: health, info, metrics and their description, and nothing else.

mod accept;
mod connections;
mod docs;
pub mod messages;
pub mod server;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HeaderName, HeaderValue, PRAGMA,
    STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    X_XSS_PROTECTION,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::accept::prefers;
use crate::health::{Component, Health, Report, Status};
use crate::metrics::Metrics;

const ACTUATOR_JSON: &str = "application/vnd.spring-boot.actuator.v3+json";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text";
const TEXT: &str = "text/plain";

#[derive(Clone, Debug)]
pub(crate) struct Pages {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub info: Arc<Value>,
    /// Whether OpenAPI and Swagger UI are served.
    pub api_docs: bool,
}

pub(crate) fn on_one_port(pages: Pages) -> Router {
    finished(public().merge(metrics()), pages)
}

/// The main port, which the ingress serves, and the management port, which only Prometheus and operators reach. Metrics
/// are on the management port only. Everything else is on both.
pub(crate) fn on_two_ports(pages: Pages) -> (Router, Router) {
    (finished(public(), pages.clone()), on_one_port(pages))
}

/// Each path also works with a trailing slash, as it did in the predecessor.
fn public() -> OpenApiRouter<Pages> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .route("/health/", get(health))
        .routes(routes!(component))
        .route("/health/{component}/", get(component))
        .routes(routes!(info))
}

fn metrics() -> OpenApiRouter<Pages> {
    OpenApiRouter::new()
        .routes(routes!(prometheus))
        .route("/prometheus/", get(prometheus))
}

fn finished(endpoints: OpenApiRouter<Pages>, pages: Pages) -> Router {
    let version = pages.info["build"]["version"].as_str().unwrap_or_default();
    let (mut router, description) = OpenApiRouter::with_openapi(docs::description(version))
        .merge(endpoints)
        .split_for_parts();
    if pages.api_docs {
        router = router.merge(docs::pages(&description));
    }
    router
        .fallback(unauthorised)
        .layer(from_fn(with_security_headers))
        .with_state(pages)
}

/// Health of the service and everything it depends on.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "Everything is up", content((Report = ACTUATOR_JSON), (Report = JSON))),
    (status = 503, description = "A component is down", content((Report = ACTUATOR_JSON), (Report = JSON))),
))]
async fn health(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    match pages.health.report().await {
        Some(report) => actuator(code_of(report.status), &report, &headers),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Health of one component. liveness, readiness and ping are for probes. The other names are the components of /health.
#[utoipa::path(get, path = "/health/{component}", tag = "health", params(
    ("component" = String, Path, description = "Name of the component", example = "liveness"),
), responses(
    (status = 200, description = "The component is up", content((Component = ACTUATOR_JSON), (Component = JSON))),
    (status = 503, description = "The component is down, or the service is stopping", content((Component = ACTUATOR_JSON), (Component = JSON))),
    (status = 404, description = "No component has this name"),
))]
async fn component(
    // An error if the path is not text, and so not a component's name.
    name: Result<Path<String>, PathRejection>,
    State(pages): State<Pages>,
    headers: HeaderMap,
) -> Response {
    let component = match name {
        Ok(Path(name)) => pages.health.component(&name).await,
        Err(_) => None,
    };
    match component {
        Some(component) => actuator(code_of(component.status), &component, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn code_of(status: Status) -> StatusCode {
    if status == Status::Up {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn actuator(code: StatusCode, body: &impl Serialize, headers: &HeaderMap) -> Response {
    let content_type = if prefers(headers, JSON, ACTUATOR_JSON) {
        JSON
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
    (status = 200, description = "Version, build and product", content(
        (Object = ACTUATOR_JSON,
            example = json!({"build": {"name": "probation-offender-events", "version": "2026-11-24.1.abcdef"}, "productId": "default"})),
        (Object = JSON),
    )),
))]
async fn info(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    actuator(StatusCode::OK, &*pages.info, &headers)
}

/// Metrics for Prometheus, as text or, when asked for, as OpenMetrics.
#[utoipa::path(get, path = "/prometheus", tag = "metrics", responses(
    (status = 200, description = "Every metric with its help", content((String = TEXT), (String = OPEN_METRICS))),
))]
async fn prometheus(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let (content_type, text) = if prefers(&headers, OPEN_METRICS, TEXT) {
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
            tracing::error!(%error, "the metrics cannot be encoded, so this scrape gets a 500. Report this as a bug");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The answer to any other path: that of a Spring resource server without a token.
async fn unauthorised() -> Response {
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response()
}

/// The headers of Spring Security.
async fn with_security_headers(request: Request, next: Next) -> Response {
    const ALWAYS: [(HeaderName, &str); 6] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (X_XSS_PROTECTION, "0"),
        (
            CACHE_CONTROL,
            "no-cache, no-store, max-age=0, must-revalidate",
        ),
        (PRAGMA, "no-cache"),
        (EXPIRES, "0"),
    ];
    const BY_HTTPS: (HeaderName, &str) = (
        STRICT_TRANSPORT_SECURITY,
        "max-age=31536000 ; includeSubDomains",
    );
    let by_https = came_by_https(request.headers()).then_some(BY_HTTPS);
    let mut response = next.run(request).await;
    for (name, value) in ALWAYS.into_iter().chain(by_https) {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// With several proxies, the first is the one that the caller connected to.
fn came_by_https(headers: &HeaderMap) -> bool {
    let scheme = headers.get("x-forwarded-proto");
    let scheme = scheme.and_then(|value| value.to_str().ok()?.split(',').next());
    scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}
