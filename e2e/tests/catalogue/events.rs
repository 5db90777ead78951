//! The event catalogue: code, docs/asyncapi.yaml, README and OpenAPI say the same, and it is what is published.

use std::io::Write;

use crate::world::{World, attribute, row};
use probation_offender_events::event::mappings::{
    GENERIC_EVENT_TYPE, GENERIC_RAISED_WHEN, MAPPINGS, Mapping, OTHER_TABLES, markdown_table,
};
use sandbox::Message;
use sandbox::delius::NewUpdate;
use serde_json::{Map, Value, json};

const README: &str = include_str!("../../../README.md");

fn catalogue() -> Value {
    yaml_serde::from_str(include_str!("../../../docs/asyncapi.yaml")).unwrap()
}

async fn openapi(world: &World) -> Value {
    let url = format!("{}/v3/api-docs", world.address);
    world
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap()
}

fn mappings() -> impl Iterator<Item = &'static Mapping> {
    MAPPINGS.iter().chain([&OTHER_TABLES])
}

/// What the catalogue should say of an event type.
fn message(name: &str, summary: &str, schema: &str) -> Value {
    let event_type = if name == OTHER_TABLES.event_type {
        json!({"pattern": "^.+_CHANGED$"})
    } else {
        json!({"const": name})
    };
    json!({
        "name": name,
        "summary": summary,
        "headers": {
            "type": "object",
            "allOf": [{"$ref": "#/components/schemas/Attributes"}],
            "properties": {"eventType": event_type},
        },
        "payload": {"$ref": format!("#/components/schemas/{schema}")},
    })
}

#[test]
fn the_catalogue_has_the_event_types_of_the_code_and_no_others() {
    let catalogue = catalogue();
    let mut expected = Map::new();
    let generic = message(GENERIC_EVENT_TYPE, GENERIC_RAISED_WHEN, "GenericMessage");
    expected.insert(GENERIC_EVENT_TYPE.to_owned(), generic);
    for mapping in mappings() {
        let mut message = message(mapping.event_type, mapping.raised_when, "SpecificMessage");
        let (changed, source_id) = (mapping.changed(), mapping.source_id);
        let generic = if mapping.generic_too {
            format!(" {GENERIC_EVENT_TYPE} goes out before it.")
        } else {
            String::new()
        };
        message["description"] =
            format!("Changed table: {changed}. `sourceId`: {source_id}.{generic}").into();
        expected.insert(mapping.event_type.to_owned(), message);
    }
    let mut messages = catalogue["components"]["messages"]
        .as_object()
        .unwrap()
        .clone();
    // The only text that is the catalogue's own.
    messages[GENERIC_EVENT_TYPE]
        .as_object_mut()
        .unwrap()
        .remove("description");
    for (name, message) in &expected {
        assert_eq!(
            messages.get(name),
            Some(message),
            "{name} in docs/asyncapi.yaml"
        );
    }
    assert_eq!(
        messages.len(),
        expected.len(),
        "docs/asyncapi.yaml has more messages"
    );
    let sent = &catalogue["channels"]["probationOffenderEvents"]["messages"];
    let references = expected.keys().map(|name| {
        let reference = format!("#/components/messages/{name}");
        (name.clone(), json!({"$ref": reference}))
    });
    assert_eq!(sent, &Value::Object(references.collect()));
}

#[test]
fn the_readme_shows_the_table_of_events() {
    let table = markdown_table();
    assert!(
        README.contains(&table),
        "the README's table should be:\n{table}"
    );
}

#[tokio::test]
async fn openapi_shows_the_table_of_events_and_the_schemas_of_the_catalogue() {
    let world = World::start().await;
    let openapi = openapi(&world).await;
    let text = openapi["info"]["description"].as_str().unwrap();
    assert!(text.contains(&markdown_table()), "{text}");
    let catalogue = catalogue();
    for (name, webhook) in [
        ("GenericMessage", GENERIC_EVENT_TYPE),
        ("SpecificMessage", "specific events"),
    ] {
        let mut schema = openapi["components"]["schemas"][name].clone();
        for property in schema["properties"].as_object_mut().unwrap().values_mut() {
            let property = property.as_object_mut().unwrap();
            let example = property.remove("example").unwrap();
            property.insert("examples".to_owned(), json!([example]));
        }
        assert_eq!(schema, catalogue["components"]["schemas"][name], "{name}");
        let body = &openapi["webhooks"][webhook]["post"]["requestBody"]["content"];
        let reference = format!("#/components/schemas/{name}");
        assert_eq!(body["application/json"]["schema"]["$ref"], reference);
    }
    world.stop().await;
}

/// A part of the catalogue as a schema, with what it refers to.
fn validator(catalogue: &Value, schema: &Value) -> jsonschema::Validator {
    let whole = json!({"components": catalogue["components"], "allOf": [schema]});
    jsonschema::draft7::new(&whole).unwrap()
}

/// Asserts that a message is what the catalogue says of its event type, and nothing besides.
fn assert_described(catalogue: &Value, message: &Message) {
    let components = &catalogue["components"];
    let messages = components["messages"].as_object().unwrap();
    let event_type = attribute(message, "eventType");
    let name = match event_type {
        "CONTACT_CHANGED" => OTHER_TABLES.event_type,
        known => known,
    };
    let described = &messages[name];
    let body: Value = serde_json::from_str(&message.body).unwrap();
    let payload = validator(catalogue, &described["payload"]);
    assert!(payload.is_valid(&body), "{event_type}: {body}");
    let reference = described["payload"]["$ref"].as_str().unwrap();
    let properties = &catalogue.pointer(&reference[1..]).unwrap()["properties"];
    for (field, value) in body.as_object().unwrap() {
        assert!(properties[field].is_object(), "{event_type}: {field}");
        let wrong = json!({"offenderId": 1, "crn": "X1", "eventDatetime": "2020-07-19T13:56:43", field: [value]});
        assert!(!payload.is_valid(&wrong), "{field} is not described");
    }
    let mut headers = Map::new();
    for (name, (data_type, value)) in &message.attributes {
        let attribute = &components["schemas"]["Attributes"]["properties"][name];
        assert_eq!(&attribute["x-data-type"], data_type, "{name}");
        headers.insert(name.clone(), value.clone().into());
    }
    let attributes = validator(catalogue, &described["headers"]);
    assert!(
        attributes.is_valid(&headers.clone().into()),
        "{event_type}: {headers:?}"
    );
    for name in message.attributes.keys() {
        let mut wrong = headers.clone();
        wrong[name] = "no".into();
        assert!(
            !attributes.is_valid(&wrong.into()),
            "{name} is not described"
        );
    }
}

#[tokio::test]
async fn what_is_published_is_what_the_catalogue_describes() {
    let world = World::start_with(&[("OFFENDERUPDATEPOLL_CONTACTDELETED", "true")]).await;
    let mut expected = 0;
    for (record, mapping) in (1..).zip(MAPPINGS) {
        world.add(NewUpdate {
            action: mapping.action.unwrap_or("UPSERT").into(),
            source_record_id: Some(record),
            ..row(2, mapping.source_table)
        });
        expected += 1 + usize::from(mapping.generic_too);
    }
    // No prison number, no record, a fraction of a second.
    world.add(NewUpdate {
        source_record_id: None,
        date_changed: "2020-07-19T13:56:43.120".into(),
        ..row(4, "CONTACT")
    });
    let catalogue = catalogue();
    for message in world.messages(expected + 1).await {
        assert_described(&catalogue, &message);
    }
    world.stop().await;
}

/// Every `$ref` in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn whatever_the_catalogue_refers_to_is_there() {
    let catalogue = catalogue();
    let mut found = Vec::new();
    references(&catalogue, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(catalogue.pointer(pointer).is_some(), "{reference}");
    }
}

/// The schema is that of <https://github.com/asyncapi/spec-json-schemas>; `.ci/run` fetches it if it can.
#[test]
fn the_catalogue_is_valid_by_the_schema_of_asyncapi() {
    let Some(file) = std::env::var_os("ASYNCAPI_SCHEMA") else {
        // Straight to the terminal: the test harness keeps back what a passing test prints.
        let reason = "SKIPPED: ASYNCAPI_SCHEMA does not name the JSON schema of AsyncAPI 3.0.0";
        let _ = writeln!(std::io::stderr(), "{reason}");
        return;
    };
    let schema = std::fs::read(&file).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let mut catalogue = catalogue();
    let errors: Vec<_> = validator
        .iter_errors(&catalogue)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert_eq!(errors, Vec::<String>::new());
    catalogue["operations"]["publish"]["action"] = "shout".into();
    assert!(!validator.is_valid(&catalogue));
}
