//! [`Problem`]: every error of the API, as `application/problem+json` (RFC 9457).
//!
//! The kinds of [`brigade::Error`] keep their names, in the field `kind`, and have one status each;
//! the kinds that only a server has are below. A status of 503 is temporary and comes with
//! `Retry-After`, but for `closed`: this server does not come back, only the next one. A detail
//! quotes names of the request, never a payload or a credential.

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
#[schema(as = Problem, example = json!({
    "type": "urn:brigade:problem:unknown_queue",
    "title": "there is no queue of this name",
    "status": 404,
    "detail": "there is no queue \"emials\"",
    "kind": "unknown_queue",
    "retryable": false,
    "uncertain": false,
    "did_you_mean": ["emails"]
}))]
pub(crate) struct ProblemDocument {
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
    /// In how many seconds to try again; the header `Retry-After` has it.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// Names that there are and that look alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    did_you_mean: Vec<String>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<ProblemDocument>);

/// In the extensions of a response: the connection to the broker has ended for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionEnded;

/// The kind of a connection that has ended for good.
const CLOSED: &str = "closed";

/// Names that a missing one is compared with, and the longest that is.
const NAMES_COMPARED_MAX: usize = 1_000;
const COMPARED_BYTES_MAX: usize = 200;

/// The media type of problems.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(ProblemDocument {
            uri: format!("urn:brigade:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            kind,
            retryable: status == StatusCode::SERVICE_UNAVAILABLE,
            uncertain: false,
            line: None,
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
            did_you_mean: Vec::new(),
        }))
    }

    /// A request that makes no sense, with what was expected.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        let (kind, title) = ("bad_request", "the request makes no sense");
        Self::new(StatusCode::BAD_REQUEST, kind, title, detail)
    }

    /// A body that is no JSON, or not what was expected, with the line. The hint says how it may
    /// look.
    pub(crate) fn bad_json(error: &serde_json::Error, hint: &str) -> Self {
        Self::bad_request(format!("the body cannot be read: {error}{hint}")).at_line(error.line())
    }

    /// With the line of the body that is at fault, from 1.
    pub(crate) fn at_line(mut self, line: usize) -> Self {
        self.0.line = Some(line);
        self
    }

    /// With the names among these that look like this one.
    pub(crate) fn near<'a>(mut self, name: &str, names: impl Iterator<Item = &'a str>) -> Self {
        if name.len() > COMPARED_BYTES_MAX {
            return self;
        }
        let distance = |other: &str| strsim::damerau_levenshtein(name, other);
        let mut near: Vec<(usize, &str)> = names
            .filter(|other| other.len().abs_diff(name.len()) <= 1 + other.len() / 4)
            .take(NAMES_COMPARED_MAX)
            .map(|other| (distance(other), other))
            .filter(|(distance, other)| *distance <= 1 + other.chars().count() / 4)
            .collect();
        near.sort_unstable();
        let names = near.into_iter().take(3).map(|(_, name)| name.to_owned());
        self.0.did_you_mean = names.collect();
        if let Some(first) = self.0.did_you_mean.first() {
            self.0
                .detail
                .push_str(&format!("; did you mean {first:?}?"));
        }
        self
    }

    /// A lease that does not hold its job any more.
    pub(crate) fn stale() -> Self {
        let detail = "the lease does not hold the job any more: it ran out or was settled, and \
            another holder may have the job; nothing was changed";
        Self::new(StatusCode::CONFLICT, "stale", "the lease has ended", detail)
    }

    /// A schedule that is not there.
    pub(crate) fn unknown_schedule(name: &str) -> Self {
        let detail = format!("there is no schedule {name:?}");
        let (kind, title) = ("unknown_schedule", "there is no schedule of this name");
        Self::new(StatusCode::NOT_FOUND, kind, title, detail)
    }

    /// A call that was made and gave no value; the kind is its outcome.
    pub(crate) fn no_value(kind: &'static str, detail: impl Into<String>) -> Self {
        let title = "the call gave no value";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, kind, title, detail)
    }

    /// A server whose broker does not answer.
    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        let (kind, title) = ("unreachable", "the broker cannot be reached");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    }

    /// A server that is about to end.
    pub(crate) fn stopping() -> Self {
        let (kind, title) = ("stopping", "the server is about to end");
        let detail = "this server is about to end: send the request again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    }

    /// A server whose connection to the broker has ended for good.
    pub(crate) fn closed() -> Self {
        let title = "the connection has ended";
        let detail = "the connection to the broker has ended for good: start the server again";
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, CLOSED, title, detail);
        (problem.0.retryable, problem.0.retry_after) = (false, None);
        problem
    }

    /// A job that is not in a state for what was asked.
    pub(crate) fn wrong_state(detail: impl Into<String>) -> Self {
        let (kind, title) = ("wrong_state", "the job is in another state");
        Self::new(StatusCode::CONFLICT, kind, title, detail)
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

    /// A queue without jobs, limits or a pause.
    pub(crate) fn unknown_queue(name: &str) -> Self {
        let detail = format!("no queue {name:?} has jobs, limits or a pause");
        let (kind, title) = ("unknown_queue", "there is no queue of this name");
        Self::new(StatusCode::NOT_FOUND, kind, title, detail)
    }

    /// A request without a credential.
    pub(crate) fn no_credential() -> Self {
        let detail = "this server wants a token: send the header `Authorization: Bearer TOKEN`";
        let (kind, title) = ("no_credential", "a credential is missing");
        Self::new(StatusCode::UNAUTHORIZED, kind, title, detail)
    }

    /// A credential that is wrong.
    pub(crate) fn wrong_credential() -> Self {
        let detail = "the token is none of this server's: send `Authorization: Bearer TOKEN`";
        let (kind, title) = ("wrong_credential", "the credential is wrong");
        Self::new(StatusCode::UNAUTHORIZED, kind, title, detail)
    }

    /// One wrong credential too many of this address.
    pub(crate) fn too_many_failures(seconds: u64) -> Self {
        let detail = "too many wrong tokens came from this address; the right one is accepted";
        let (kind, title) = ("too_many_failures", "too many wrong credentials");
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, title, detail);
        problem.0.retry_after = Some(seconds);
        problem
    }

    /// A request that a page of another site made the browser send.
    pub(crate) fn other_site() -> Self {
        let detail = "a browser sent this for a page of another site; programs send a token and no \
            `Origin`";
        let (kind, title) = ("other_site", "the request comes from another site");
        Self::new(StatusCode::FORBIDDEN, kind, title, detail)
    }

    /// A request for a name that this server does not have.
    pub(crate) fn wrong_host() -> Self {
        let detail = "this server is not for this `Host`: use its address, or start it with --host";
        let (kind, title) = ("wrong_host", "this server is not for this host");
        Self::new(StatusCode::MISDIRECTED_REQUEST, kind, title, detail)
    }

    /// The server itself cannot do something.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        let (kind, title) = ("internal", "the server cannot do that");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, kind, title, detail)
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

    /// The document as text.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// What is wrong, in words.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, kind, title) = described(error.kind());
        let detail = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let mut problem = Self::new(status, kind, title, detail);
        problem.0.retryable = error.is_retryable();
        if error.kind() == ErrorKind::Closed {
            problem.0.retry_after = None;
        }
        problem.0.uncertain = error.is_uncertain();
        problem
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
        ErrorKind::Closed => (S::SERVICE_UNAVAILABLE, CLOSED, "the connection has ended"),
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
        let (status, retry_after) = (self.status(), self.0.retry_after);
        let mut response = (status, Json(&*self.0)).into_response();
        if self.0.kind == CLOSED {
            response.extensions_mut().insert(ConnectionEnded);
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
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
