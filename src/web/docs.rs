//! The service from outside, in OpenAPI: its endpoints, its messages and how to get them. Swagger UI shows it. All of
//! it works offline.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::response::AppendHeaders;
use axum::routing::get;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContactBuilder, ContentBuilder, Deprecated, InfoBuilder, LicenseBuilder,
    OpenApi, OpenApiBuilder, Ref, ResponseBuilder, ServerBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::messages::{GenericMessage, SpecificMessage, markdown_table};
use crate::event::mappings::{GENERIC_EVENT_TYPE, GENERIC_RAISED_WHEN};

/// The description without the endpoints. The routes that are served add those.
pub fn description(version: &str) -> OpenApi {
    let text = include_str!("openapi.md").replace("{events}", &markdown_table());
    let components = ComponentsBuilder::new()
        .schema(GenericMessage::name(), GenericMessage::schema())
        .schema(SpecificMessage::name(), SpecificMessage::schema());
    let webhooks = PathsBuilder::new()
        .path(
            GENERIC_EVENT_TYPE,
            webhook(
                message(&GenericMessage::name(), GENERIC_RAISED_WHEN)
                    .operation_id(Some("genericEvent"))
                    .deprecated(Some(Deprecated::True)),
            ),
        )
        .path(
            "specific events",
            webhook(
                message(
                    &SpecificMessage::name(),
                    "Every other event type: see the table of events",
                )
                .operation_id(Some("specificEvent")),
            ),
        );
    let contact = ContactBuilder::new()
        .name(Some("HMPPS Digital Studio"))
        .email(Some("feedback@digital.justice.gov.uk"));
    let licence = LicenseBuilder::new().name("MIT").identifier(Some("MIT"));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Probation Offender Events")
                .version(version)
                .description(Some(text))
                .contact(Some(contact.build()))
                .license(Some(licence.build()))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url("/").build()]))
        .webhooks(Some(webhooks.build()))
        .components(Some(components.build()))
        .build()
}

fn webhook(operation: OperationBuilder) -> PathItem {
    PathItem::new(HttpMethod::Post, operation)
}

fn message(schema: &str, summary: &str) -> OperationBuilder {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build();
    OperationBuilder::new()
        .summary(Some(summary))
        .tag("messages on the topic")
        .request_body(Some(
            RequestBodyBuilder::new()
                .description(Some("The message as SNS delivers it to subscribed queues"))
                .content("application/json", body)
                .build(),
        ))
        .response(
            "200",
            ResponseBuilder::new()
                .description("Delete the message from the queue to acknowledge it")
                .build(),
        )
}

type File = (&'static str, &'static str, &'static [u8], bool);

/// What a browser loads. The large files are in the binary as gzip only, which every browser accepts.
#[rustfmt::skip]
const SWAGGER_UI: [File; 5] = [
    ("/swagger-ui/index.html", "text/html; charset=utf-8", include_bytes!("swagger_ui/index.html"), false),
    ("/swagger-ui/tables.css", "text/css; charset=utf-8", include_bytes!("swagger_ui/tables.css"), false),
    ("/swagger-ui/swagger-initializer.js", "text/javascript; charset=utf-8", include_bytes!("swagger_ui/swagger-initializer.js"), false),
    ("/swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz")), true),
    ("/swagger-ui/swagger-ui.css", "text/css; charset=utf-8", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz")), true),
];

/// Swagger UI sets styles on its elements, and its icons are data. Everything else comes from this origin, and no page
/// may frame it.
const SWAGGER_UI_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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
            let headers = [
                (CONTENT_TYPE, content_type),
                (CONTENT_SECURITY_POLICY, SWAGGER_UI_POLICY),
            ];
            (headers, encoding, bytes)
        };
        router = router.route(path, get(file));
    }
    router
}
