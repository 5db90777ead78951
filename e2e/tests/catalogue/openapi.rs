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

fn paths(description: &Value) -> Vec<String> {
    let paths = description["paths"].as_object().unwrap();
    paths.keys().cloned().collect()
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
    let paths = paths(&description);
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
        let described = &description["paths"][path]["get"]["responses"][status];
        assert!(described["description"].is_string(), "{asked}");
        let Some(content) = described["content"].as_object() else {
            let answer = get(&world, asked).await;
            assert_eq!(answer.status().as_str(), status, "{asked}");
            assert_eq!(answer.text().await.unwrap(), "", "{asked}");
            continue;
        };
        assert_eq!(content.len(), 2, "{asked}");
        for (content_type, described) in content {
            let url = format!("{}{asked}", world.address);
            let request = world.http.get(url).header("Accept", content_type);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status().as_str(), status, "{asked}");
            let answered = answer.headers()["content-type"].to_str().unwrap();
            assert_eq!(answered.split(';').next(), Some(&**content_type));
            let text = answer.text().await.unwrap();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let validator = validator(&description, &described["schema"]);
            assert!(validator.is_valid(&body), "{asked}: {body}");
            assert!(!validator.is_valid(&json!([])), "{asked}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn the_description_names_title_contact_licence_and_every_operation() {
    let world = World::start().await;
    let description = description(&world).await;
    let info = &description["info"];
    assert_eq!(info["title"], "Probation Offender Events");
    assert_eq!(
        info["contact"],
        json!({"name": "HMPPS Digital Studio", "email": "feedback@digital.justice.gov.uk"})
    );
    assert_eq!(info["license"], json!({"name": "MIT", "identifier": "MIT"}));
    let mut ids: Vec<_> = ["paths", "webhooks"]
        .iter()
        .flat_map(|kind| description[kind].as_object().unwrap().values())
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    let expected = [
        "component",
        "genericEvent",
        "health",
        "info",
        "prometheus",
        "specificEvent",
    ];
    assert_eq!(ids, expected);
    let webhooks = &description["webhooks"];
    assert_eq!(webhooks["OFFENDER_CHANGED"]["post"]["deprecated"], true);
    assert!(webhooks["specific events"]["post"]["deprecated"].is_null());
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
    let policy = index.headers()["content-security-policy"].to_str().unwrap();
    for rule in [
        "default-src 'none';",
        "script-src 'self';",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
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
        // With nosniff, the browser believes only this.
        assert_eq!(
            headers["content-type"],
            format!("{content_type}; charset=utf-8")
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let bytes = answer.bytes().await.unwrap();
        let mut text = String::new();
        if headers.contains_key("content-encoding") {
            assert_eq!(headers["content-encoding"], "gzip");
            // It fails if the checksum is wrong.
            GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(bytes.to_vec()).unwrap();
        }
        assert!(text.contains(holds), "{file}");
    }
    world.stop().await;
}

#[tokio::test]
async fn each_port_describes_what_it_serves() {
    let world = World::start_with(&[("MANAGEMENT_SERVER_PORT", "0")]).await;
    let public = ["/health", "/health/{component}", "/info"];
    let management = description(&world).await;
    assert_eq!(paths(&management), [&public[..], &["/prometheus"]].concat());
    let main = world.http.get(format!("{}/v3/api-docs", world.address));
    let main: Value = main.send().await.unwrap().json().await.unwrap();
    assert_eq!(paths(&main), public);
    for address in [&world.address, &world.management_address] {
        let page = world.http.get(format!("{address}/swagger-ui/index.html"));
        assert_eq!(page.send().await.unwrap().status(), 200);
    }
    world.stop().await;
}
