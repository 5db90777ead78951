//! The OpenAPI description and Swagger UI: offline, complete, and true.

use std::io::Read;

use crate::world::World;
use flate2::read::GzDecoder;
use reqwest::Response;
use serde_json::{Value, json};

async fn get(world: &World, path: &str) -> Response {
    let url = format!("{}{path}", world.management_address);
    world.http.get(url).send().await.unwrap()
}

async fn description(world: &World) -> Value {
    let answer = get(world, "/v3/api-docs").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    answer.json().await.unwrap()
}

/// A schema of the description, with what it refers to.
fn validator(description: &Value, schema: &Value) -> jsonschema::Validator {
    let whole = json!({"components": description["components"], "allOf": [schema]});
    jsonschema::draft202012::new(&whole).unwrap()
}

#[tokio::test]
async fn every_endpoint_is_described_and_answers_as_described() {
    let world = World::start().await;
    let description = description(&world).await;
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(description["info"]["version"], "2026-11-24.1.abcdef");
    let paths: Vec<_> = description["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        ["/health", "/health/{component}", "/info", "/prometheus"]
    );
    world
        .sandbox
        .faults()
        .always(sandbox::Endpoint::AuthPing, sandbox::Fault::status(500));
    for (path, asked, status) in [
        ("/health", "/health", "503"),
        ("/health/{component}", "/health/liveness", "200"),
        ("/health/{component}", "/health/OAuthApiHealth", "503"),
        ("/health/{component}", "/health/nothing", "404"),
        ("/info", "/info", "200"),
        ("/prometheus", "/prometheus", "200"),
    ] {
        let answer = get(&world, asked).await;
        assert_eq!(answer.status().as_str(), status, "{asked}");
        let described = &description["paths"][path]["get"]["responses"][status];
        assert!(described["description"].is_string(), "{asked}");
        let Some(content) = described["content"].as_object() else {
            assert_eq!(answer.text().await.unwrap(), "", "{asked}");
            continue;
        };
        let content_type = answer.headers()["content-type"].to_str().unwrap();
        let content_type = content_type.split(';').next().unwrap().to_owned();
        assert_eq!(content.keys().collect::<Vec<_>>(), [&content_type]);
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let validator = validator(&description, &content[&content_type]["schema"]);
        assert!(validator.is_valid(&body), "{asked}: {body}");
        assert!(!validator.is_valid(&json!([])), "{asked}");
    }
    world.stop().await;
}

#[tokio::test]
async fn swagger_ui_loads_everything_from_here_and_shows_the_description() {
    let world = World::start().await;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let http = http.build().unwrap();
    for path in ["/swagger-ui.html", "/swagger-ui", "/swagger-ui/"] {
        let url = format!("{}{path}", world.address);
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 302, "{path}");
        assert_eq!(answer.headers()["location"], "/swagger-ui/index.html");
    }
    let index = get(&world, "/swagger-ui/index.html").await;
    assert_eq!(index.headers()["content-type"], "text/html; charset=utf-8");
    let index = index.text().await.unwrap();
    assert!(!index.contains("//"), "nothing comes from elsewhere");
    for (file, content_type, holds) in [
        ("swagger-initializer.js", "text/javascript", "/v3/api-docs"),
        ("swagger-ui-bundle.js", "text/javascript", "SwaggerUIBundle"),
        ("swagger-ui.css", "text/css", ".swagger-ui"),
    ] {
        assert!(index.contains(&format!("\"{file}\"")), "{file}");
        let answer = get(&world, &format!("/swagger-ui/{file}")).await;
        assert_eq!(answer.status(), 200, "{file}");
        let headers = answer.headers().clone();
        // The browser believes this and nothing else: nosniff.
        assert_eq!(
            headers["content-type"],
            format!("{content_type}; charset=utf-8")
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let bytes = answer.bytes().await.unwrap();
        let mut text = String::new();
        if headers.contains_key("content-encoding") {
            assert_eq!(headers["content-encoding"], "gzip");
            // It fails if the check sum is wrong.
            GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(bytes.to_vec()).unwrap();
        }
        assert!(text.contains(holds), "{file}");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_description_is_on_both_ports_so_that_it_can_be_read_through_the_ingress() {
    let world = World::start_with(&[("MANAGEMENT_SERVER_PORT", "0")]).await;
    for path in ["/v3/api-docs", "/swagger-ui/index.html"] {
        assert_eq!(get(&world, path).await.status(), 200, "{path}");
        let main = world.http.get(format!("{}{path}", world.address));
        assert_eq!(main.send().await.unwrap().status(), 200, "{path}");
    }
    world.stop().await;
}
