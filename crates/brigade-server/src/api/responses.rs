//! Problems that many operations share, for the OpenAPI document.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// What every operation behind a credential may answer.
pub(crate) struct CommonProblems;

impl IntoResponses for CommonProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (400, "the request makes no sense"),
            (401, "the token is missing or wrong"),
            (403, "the token does not have the role"),
            (421, "this server is not for this `Host`"),
            (422, "this broker cannot do that"),
            (
                429,
                "too many wrong tokens from this address; `Retry-After` says when to try again",
            ),
            (500, "the operating system refused the broker"),
            (502, "the broker refused, or its answer makes no sense"),
            (
                503,
                "the broker cannot be reached or has no room; `Retry-After` says when to try again",
            ),
        ])
    }
}

/// What every operation with a body may answer besides.
pub(crate) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (408, "the body took too long"),
            (413, "the body, or a payload, is too large"),
            (415, "the body has the wrong media type"),
        ])
    }
}

/// What every operation on one job may answer besides.
pub(crate) struct JobProblems;

impl IntoResponses for JobProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(404, "there is no job of this id (any more)")])
    }
}

/// What every operation that needs a job in some state may answer besides.
pub(crate) struct StateProblems;

impl IntoResponses for StateProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(
            409,
            "the job, or the lease, is in another state; nothing was changed",
        )])
    }
}

/// What every operation on something with a name may answer besides.
pub(crate) struct NameProblems;

impl IntoResponses for NameProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[(
            404,
            "there is nothing of this name; `did_you_mean` has near ones",
        )])
    }
}

/// Responses with a problem document.
fn problems(statuses: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
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
        .map(|(status, description)| (status.to_string(), response(description).into()))
        .collect()
}
