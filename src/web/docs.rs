//! What the service is from outside, in OpenAPI: its endpoints, its messages and how to get them; and Swagger UI to read it
//! with. All of it works offline.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use axum::response::AppendHeaders;
use axum::routing::get;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref,
    ResponseBuilder, ServerBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::event::mappings::{GENERIC_EVENT_TYPE, GENERIC_RAISED_WHEN, markdown_table};
use crate::event::{GenericMessage, SpecificMessage};

/// The description of everything but the endpoints, which [`super::endpoints_and_docs`] adds where it routes them.
pub fn description(version: &str) -> OpenApi {
    let text = include_str!("openapi.md").replace("{events}", &markdown_table());
    let components = ComponentsBuilder::new()
        .schema(GenericMessage::name(), GenericMessage::schema())
        .schema(SpecificMessage::name(), SpecificMessage::schema());
    let webhooks = PathsBuilder::new()
        .path(
            GENERIC_EVENT_TYPE,
            message(&GenericMessage::name(), GENERIC_RAISED_WHEN),
        )
        .path(
            "specific events",
            message(
                &SpecificMessage::name(),
                "Every other event type: see the table of events",
            ),
        );
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title(env!("CARGO_PKG_NAME"))
                .version(version)
                .description(Some(text))
                .license(Some(LicenseBuilder::new().name("MIT").build()))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url("/").build()]))
        .webhooks(Some(webhooks.build()))
        .components(Some(components.build()))
        .build()
}

fn message(schema: &str, summary: &str) -> PathItem {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build();
    let operation = OperationBuilder::new()
        .summary(Some(summary))
        .tag("messages on the topic")
        .request_body(Some(
            RequestBodyBuilder::new()
                .description(Some("The message, as SNS hands it to subscribed queues"))
                .content("application/json", body)
                .build(),
        ))
        .response(
            "200",
            ResponseBuilder::new()
                .description("Deleting the message from the queue is the answer")
                .build(),
        );
    PathItem::new(HttpMethod::Post, operation)
}

/// One file of Swagger UI: its path, content type, bytes, and whether they are compressed.
type File = (&'static str, &'static str, &'static [u8], bool);

/// What a browser loads. The large ones are in the binary as gzip files only, which every browser takes.
const SWAGGER_UI: [File; 4] = [
    (
        "/swagger-ui/index.html",
        "text/html; charset=utf-8",
        include_bytes!("swagger_ui/index.html"),
        false,
    ),
    (
        "/swagger-ui/swagger-initializer.js",
        "text/javascript; charset=utf-8",
        include_bytes!("swagger_ui/swagger-initializer.js"),
        false,
    ),
    (
        "/swagger-ui/swagger-ui-bundle.js",
        "text/javascript; charset=utf-8",
        include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz")),
        true,
    ),
    (
        "/swagger-ui/swagger-ui.css",
        "text/css; charset=utf-8",
        include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz")),
        true,
    ),
];

/// The pages that show a finished description.
pub fn pages<S: Clone + Send + Sync + 'static>(description: &OpenApi) -> Router<S> {
    // Nothing in it can fail to become JSON.
    let json = Bytes::from(serde_json::to_vec(description).unwrap_or_default());
    let api_docs = async move || ([(CONTENT_TYPE, "application/json")], json);
    let to_swagger_ui = async || (StatusCode::FOUND, [(LOCATION, "/swagger-ui/index.html")]);
    let mut router = Router::new().route("/v3/api-docs", get(api_docs));
    for path in ["/swagger-ui.html", "/swagger-ui", "/swagger-ui/"] {
        router = router.route(path, get(to_swagger_ui));
    }
    for (path, content_type, bytes, compressed) in SWAGGER_UI {
        let file = async move || {
            let encoding = compressed.then_some((CONTENT_ENCODING, "gzip"));
            let encoding = AppendHeaders(encoding);
            ([(CONTENT_TYPE, content_type)], encoding, bytes)
        };
        router = router.route(path, get(file));
    }
    router
}
