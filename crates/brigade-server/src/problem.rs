//! [`Problem`]: every error of the API, as `application/problem+json` (RFC 9457).
//!
//! The kinds of [`brigade::Error`] keep their names, in the field `kind`, and have one status each;
//! the kinds that only a server has are below. A status of 503 is temporary and comes with
//! `Retry-After`.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use brigade::{Error, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Principal, Role};

/// Why a request was not carried out (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:brigade:problem:unknown_queue",
    "title": "there is no queue of this name",
    "status": 404,
    "detail": "there is no queue \"emials\"",
    "kind": "unknown_queue",
    "retryable": false,
    "uncertain": false,
    "did_you_mean": ["emails"]
}))]
pub(crate) struct Problem {
    /// `urn:brigade:problem:` and the kind.
    #[serde(rename = "type")]
    uri: String,
    /// The kind, in words.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What is wrong, what was expected, what to do.
    detail: String,
    /// What went wrong, for a program to branch on.
    kind: &'static str,
    /// Whether the same request may succeed later without a change.
    retryable: bool,
    /// Whether the request may have been carried out nevertheless.
    uncertain: bool,
    /// The line of the body that is at fault, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Names that there are and that look alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    did_you_mean: Vec<String>,
}

/// The media type of problems.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            uri: format!("urn:brigade:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            kind,
            retryable: status == StatusCode::SERVICE_UNAVAILABLE,
            uncertain: false,
            line: None,
            did_you_mean: Vec::new(),
        }
    }

    /// A job that is not there.
    pub(crate) fn unknown_job(id: &str) -> Self {
        let detail = format!(
            "there is no job {id:?} (any more): a job that is done is removed at once, unless it \
                was pushed with `keep`"
        );
        let (kind, title) = ("unknown_job", "there is no job of this id");
        Self::new(StatusCode::NOT_FOUND, kind, title, detail)
    }

    /// A request without a credential.
    pub(crate) fn no_credential() -> Self {
        let detail = "this server wants a token: send the header `Authorization: Bearer TOKEN`";
        let (kind, title) = ("no_credential", "a credential is missing");
        Self::new(StatusCode::UNAUTHORIZED, kind, title, detail)
    }

    /// A request whose credential does not allow it.
    pub(crate) fn wrong_role(principal: &Principal, any_of: &[Role]) -> Self {
        let needed: Vec<&str> = any_of.iter().map(|role| role.name()).collect();
        let detail = format!(
            "the token {:?} has the roles {}, and this needs {}",
            principal.name,
            principal.roles,
            needed.join(" or ")
        );
        let (kind, title) = ("wrong_role", "the credential does not allow this");
        Self::new(StatusCode::FORBIDDEN, kind, title, detail)
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, kind, title) = described(error.kind());
        let detail = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self {
            retryable: error.is_retryable(),
            uncertain: error.is_uncertain(),
            ..Self::new(status, kind, title, detail)
        }
    }
}

/// Status, name and title of a kind of error.
fn described(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    use StatusCode as S;
    match kind {
        ErrorKind::BadOption => (
            S::BAD_REQUEST,
            "bad_option",
            "an option is out of its range",
        ),
        ErrorKind::BadArguments => (S::BAD_REQUEST, "bad_arguments", "the arguments do not fit"),
        ErrorKind::Decode => (S::BAD_REQUEST, "decode", "a value cannot be read"),
        ErrorKind::Encode => (S::BAD_REQUEST, "encode", "a value cannot be written"),
        ErrorKind::UnknownTask => (
            S::NOT_FOUND,
            "unknown_task",
            "there is no task of this name",
        ),
        ErrorKind::Duplicate => (S::CONFLICT, "duplicate", "its unique key is taken"),
        ErrorKind::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large", "it is too large"),
        ErrorKind::Unsupported => (
            S::UNPROCESSABLE_ENTITY,
            "unsupported",
            "this broker cannot do that",
        ),
        ErrorKind::QueueFull => (S::SERVICE_UNAVAILABLE, "queue_full", "there is no room"),
        ErrorKind::Unreachable => (
            S::SERVICE_UNAVAILABLE,
            "unreachable",
            "the broker cannot be reached",
        ),
        ErrorKind::Timeout => (
            S::SERVICE_UNAVAILABLE,
            "timeout",
            "the broker did not answer in time",
        ),
        ErrorKind::Closed => (S::SERVICE_UNAVAILABLE, "closed", "the connection has ended"),
        ErrorKind::Refused => (S::BAD_GATEWAY, "refused", "the broker refused the server"),
        ErrorKind::Protocol => (S::BAD_GATEWAY, "protocol", "the broker's answer is wrong"),
        ErrorKind::Os => (
            S::INTERNAL_SERVER_ERROR,
            "os",
            "the operating system refused",
        ),
        _ => (
            S::INTERNAL_SERVER_ERROR,
            "internal",
            "the server cannot do that",
        ),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

/// The answer for a path that no route has.
pub(crate) async fn unknown_path(uri: Uri) -> Problem {
    let detail = format!(
        "there is nothing at {:?}; /openapi.json lists what there is",
        uri.path()
    );
    let (kind, title) = ("unknown_path", "there is nothing at this path");
    Problem::new(StatusCode::NOT_FOUND, kind, title, detail)
}

/// The answer for a method that the route does not have.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!(
        "{:?} does not take {method}; /openapi.json lists what it takes",
        uri.path()
    );
    let (kind, title) = ("wrong_method", "the path does not take this method");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, kind, title, detail)
}
