//! [`Viewer`]: who looks at a page, and where the dashboard is mounted.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};

use super::undo::Undos;
use crate::auth::{Principal, Role, Roles};

/// The header by which the script of the dashboard asks for the content of a page alone.
const LIVE: &str = "x-brigade-live";

/// Who looks at a page: a request with a credential. Without one, the answer is a redirect to the
/// form for the token.
#[derive(Clone)]
pub(super) struct Viewer {
    /// The path that the dashboard is mounted at, without a slash at its end.
    pub(super) base: String,
    /// The name of the credential.
    pub(super) name: Arc<str>,
    /// Whether the script asks, for the content alone.
    pub(super) is_live: bool,
    /// Whether the page has an address: the script can ask for it again.
    pub(super) can_ask_again: bool,
    /// What can be undone at this server.
    pub(super) undos: Undos,
    roles: Roles,
}

impl Viewer {
    /// Whether the credential allows what the role allows.
    pub(super) fn has(&self, role: Role) -> bool {
        self.roles.allow(role)
    }

    /// Whether the credential allows to look at everything.
    pub(super) fn can_read(&self) -> bool {
        self.roles.allow(Role::Read)
    }

    /// Whether the credential allows to change the jobs of others.
    pub(super) fn can_change(&self) -> bool {
        self.roles.allow(Role::Admin)
    }

    /// Whether the credential allows to push jobs.
    pub(super) fn can_push(&self) -> bool {
        self.roles.allow(Role::Push)
    }

    /// The roles of the credential, for people.
    pub(super) fn roles(&self) -> String {
        self.roles.to_string()
    }
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let original = OriginalUri::from_request_parts(parts, &())
            .await
            .map_or_else(|never: Infallible| match never {}, |original| original.0);
        let base = base_of(original.path(), parts.uri.path());
        let here = parts
            .uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        let Some(principal) = parts.extensions.get::<Principal>() else {
            let is_live = parts.headers.contains_key(LIVE);
            if is_live {
                return Err(StatusCode::UNAUTHORIZED.into_response());
            }
            let next = encoded(&format!("{base}{here}"));
            let target = format!("{base}/login?next={next}");
            return Err(Redirect::to(&target).into_response());
        };
        Ok(Self {
            base,
            name: Arc::clone(&principal.name),
            is_live: parts.headers.contains_key(LIVE),
            can_ask_again: parts.method == Method::GET,
            undos: parts.extensions.get::<Undos>().cloned().unwrap_or_default(),
            roles: principal.roles,
        })
    }
}

/// The part of a path that a router was mounted at.
fn base_of(original: &str, inner: &str) -> String {
    let base = match inner {
        "/" => original.strip_suffix('/').unwrap_or(original),
        inner => original.strip_suffix(inner).unwrap_or_default(),
    };
    base.to_owned()
}

/// The path of the page of a queue.
pub(super) fn queue_path(queue: &str) -> String {
    format!("/queues/{}", encoded(queue))
}

/// The path under which the actions on a schedule are.
pub(super) fn schedule_path(name: &str) -> String {
    format!("/schedules/{}", encoded(name))
}

/// Text as one segment of a path, or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
                encoded.push(char::from(byte));
            }
            byte => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_what_the_router_is_mounted_at() {
        assert_eq!(base_of("/jobs/queues/mail", "/queues/mail"), "/jobs");
        assert_eq!(base_of("/queues", "/queues"), "");
        assert_eq!(base_of("/", "/"), "");
        assert_eq!(base_of("/jobs", "/"), "/jobs");
        assert_eq!(base_of("/jobs/", "/"), "/jobs");
    }

    #[test]
    fn names_of_any_kind_are_one_segment() {
        assert_eq!(encoded("mail:7-a"), "mail:7-a");
        assert_eq!(encoded("a/b?c=d&é \"<"), "a%2Fb%3Fc%3Dd%26%C3%A9%20%22%3C");
    }
}
