//! The OpenAPI document: every route is in it, with the roles that it needs.

use serde_json::Value;

use super::client::{Answer, Client, desk};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// Every operation of the document: its method, its path, itself.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    all
}

/// Sends a request without a body to the path of an operation.
fn send(client: &Client, method: &str, path: &str) -> Answer {
    let mut path = path.replace(['{', '}'], "_");
    if path.starts_with("/v1/calls") {
        path.push_str("?wait=0");
    }
    client.send(method, &path, "", "")
}

#[test]
fn the_document_is_openapi_3_1_and_every_reference_is_resolved() {
    let desk = desk();
    let answer = desk.client.get("/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} is not in the document"
        );
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference.clone());
            }
            fields
                .values()
                .for_each(|value| collect_references(value, found));
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[test]
fn every_operation_answers_with_a_status_that_its_document_has() {
    let desk = desk();
    let document = desk.client.get("/openapi.json").json();
    let operations = operations(&document);
    assert!(operations.len() > 20, "{}", operations.len());
    for (method, path, operation) in operations {
        // It has no end.
        if operation["responses"]["200"]["content"]
            .get("text/event-stream")
            .is_some()
        {
            continue;
        }
        let answer = send(&desk.client, &method, &path);
        let responses = &operation["responses"];
        let known = responses.get(answer.status.to_string());
        let known = known.unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        if let Some(media) = answer.header("content-type") {
            let media = media.split(';').next().unwrap();
            assert!(
                known["content"].get(media).is_some(),
                "{method} {path}: {answer:?}"
            );
        }
        assert!(operation["summary"].is_string() && operation["operationId"].is_string());
    }
}
