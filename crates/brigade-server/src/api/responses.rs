//! Problems that many operations share, for the OpenAPI document.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// What every operation behind a credential may answer.
pub(crate) struct CommonProblems;

impl IntoResponses for CommonProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            ("400", "the request makes no sense"),
            ("401", "the token is missing or wrong"),
            ("403", "the token does not have the role"),
            ("422", "this broker cannot do that"),
            ("500", "the operating system refused the broker"),
            ("502", "the broker refused, or its answer makes no sense"),
            (
                "503",
                "the broker cannot be reached or has no room; `Retry-After` says when to try again",
            ),
        ])
    }
}

/// Responses with a problem document.
pub(crate) fn problems(statuses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let content = || {
        let schema = Ref::from_schema_name("Problem");
        ContentBuilder::new().schema(Some(schema)).build()
    };
    let response = |description: &str| {
        ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", content())
            .build()
    };
    let statuses = statuses.iter();
    statuses
        .map(|(status, description)| ((*status).to_owned(), response(description).into()))
        .collect()
}
