//! Who sent a request: [`principal_of`], for the [guard](crate::guard).
//!
//! A bearer token that is wrong is refused here, also for paths that need none. A session that is
//! not known counts as none, and so does an `Authorization` of another scheme, which may be meant
//! for a proxy. What a browser sends by itself (a cookie, or nothing where no
//! credential is wanted) is no proof that its user wanted the request: one that changes something
//! must come from a page of this server, by `Sec-Fetch-Site` or `Origin`.

use std::net::IpAddr;

use axum::extract::{OriginalUri, Request};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method};

use crate::app::App;
use crate::auth::{AuthKind, Principal};
use crate::peer::peer_of;
use crate::problem::Problem;

/// The name of the cookie of a session. All programs of a host share its cookies, whatever their
/// ports; only by TLS, and at the root of a server, can a browser keep a cookie from being set by
/// others: by its name (`__Host-`).
pub(crate) fn session_cookie(base: &str, is_secure: bool) -> &'static str {
    match base.is_empty() && is_secure {
        true => "__Host-brigade_session",
        false => "brigade_session",
    }
}

/// The path that this router is mounted under, by the extensions and the path of a request.
fn is_at_root(request: &Request) -> bool {
    let original = request.extensions().get::<OriginalUri>();
    original.is_none_or(|original| original.path() == request.uri().path())
}

/// Who sent a request; `None` without a credential.
pub(crate) fn principal_of(app: &App, request: &Request) -> Result<Option<Principal>, Problem> {
    let headers = request.headers();
    match &app.options.auth.0 {
        AuthKind::None => {
            wanted_by_the_user(request, false)?;
            Ok(Some(Principal::anyone()))
        }
        AuthKind::Tokens(tokens) => {
            let tokens = tokens.get();
            if let Some(token) = bearer_of(headers) {
                let found = tokens.find(token);
                let found = found.ok_or_else(|| wrong_token(app, peer_of(request)));
                return found.map(Some);
            }
            let base = if is_at_root(request) { "" } else { "/" };
            let cookie = session_cookie(base, app.options.is_secure);
            let session =
                session_of(headers, cookie).and_then(|secret| app.sessions.find(secret, &tokens));
            if session.is_some() {
                wanted_by_the_user(request, true)?;
            }
            Ok(session)
        }
    }
}

/// The bearer token of a request. A header of another scheme is a proxy's, and counts as none.
fn bearer_of(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    values.find_map(|value| {
        let text = value.to_str().ok()?;
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    })
}

/// Notes a wrong token, and says so or, after many, when to come again.
pub(crate) fn wrong_token(app: &App, peer: Option<IpAddr>) -> Problem {
    match app.failures.note(peer) {
        None => Problem::wrong_credential(),
        Some(seconds) => Problem::too_many_failures(seconds),
    }
}

/// The secret of the session in the cookies of a request, in the cookie of this name.
pub(crate) fn session_of<'a>(headers: &'a HeaderMap, cookie: &str) -> Option<&'a str> {
    let cookies = headers.get_all(COOKIE).into_iter();
    let mut cookies = cookies
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'));
    cookies.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == cookie).then_some(value)
    })
}

/// Refuses a request that changes something and that another site made the browser send.
pub(crate) fn wanted_by_the_user(request: &Request, is_session: bool) -> Result<(), Problem> {
    let headers = request.headers();
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_wanted = match (text("sec-fetch-site"), headers.get(ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(_)) => text(ORIGIN.as_str()).is_some_and(|origin| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(HOST.as_str())
        }),
        // No browser: a program, which has no session by mistake.
        (None, None) => !is_session,
    };
    match is_wanted {
        true => Ok(()),
        false => Err(Problem::other_site()),
    }
}
