//! Requests made from the OpenAPI document: no answer is an error of the server, and each is one
//! that the document has.

use std::path::Path;
use std::process::Command;

use super::client::desk_with;

/// Where `scripts/test` installs it.
const PROGRAM: &str = concat!(
    env!("CARGO_TARGET_TMPDIR"),
    "/schemathesis/bin/schemathesis"
);

#[test]
fn requests_made_from_the_document_get_the_answers_that_it_has() {
    assert!(
        Path::new(PROGRAM).exists(),
        "schemathesis is not installed: scripts/test does it"
    );
    let desk = desk_with(&["--auth", "none", "--wait-max", "200ms"]);
    let output = Command::new(PROGRAM)
        .arg("run")
        .arg(format!("{}/openapi.json", desk.client.base))
        .args(["--checks", CHECKS])
        // Several lines of JSON have no serializer, which only the examples need.
        .args(["--phases", "coverage,fuzzing"])
        .args(["--max-examples", "10", "--max-time", "60", "--no-shrink"])
        .args(["--seed", "1", "--request-timeout", "30"])
        // It has no end.
        .args(["--exclude-path", "/v1/events"])
        .current_dir(desk.directory.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(desk.client.get("/readyz").status, 200);
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";
