//! The middleware that finds out who sent a request.
//!
//! A bearer token that is wrong is refused here, also for paths that need none. A session that is
//! not known counts as none. What a browser sends by itself (a cookie, or nothing where no
//! credential is wanted) is no proof that its user wanted the request: one that changes something
//! must come from a page of this server, by `Sec-Fetch-Site` or `Origin`.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::auth::{AuthKind, Principal, Tokens};
use crate::problem::Problem;

/// The name of the cookie of a session.
pub(crate) const SESSION_COOKIE: &str = "brigade_session";

/// Puts the [`Principal`] of a request into its extensions, if it has a credential.
pub(crate) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match principal_of(&app, &request) {
        Ok(Some(principal)) => {
            request.extensions_mut().insert(principal.clone());
            let mut response = next.run(request).await;
            // For the access log.
            response.extensions_mut().insert(principal);
            response
        }
        Ok(None) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn principal_of(app: &App, request: &Request) -> Result<Option<Principal>, Problem> {
    let headers = request.headers();
    match &app.options.auth.0 {
        AuthKind::None => {
            wanted_by_the_user(request, false)?;
            Ok(Some(Principal::anyone()))
        }
        AuthKind::Tokens(tokens) => {
            if let Some(header) = headers.get(AUTHORIZATION) {
                let text = header.to_str().unwrap_or_default();
                return by_token(app, tokens, text, peer_of(request)).map(Some);
            }
            let session = session_of(headers).and_then(|secret| app.sessions.find(secret));
            if session.is_some() {
                wanted_by_the_user(request, true)?;
            }
            Ok(session)
        }
    }
}

fn by_token(
    app: &App,
    tokens: &Tokens,
    header: &str,
    peer: Option<IpAddr>,
) -> Result<Principal, Problem> {
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    let found = match scheme.eq_ignore_ascii_case("bearer") {
        true => tokens.find(token.trim()),
        false => None,
    };
    found.ok_or_else(|| wrong_token(app, peer))
}

/// Notes a wrong token, and says so or, after many, when to come again.
pub(crate) fn wrong_token(app: &App, peer: Option<IpAddr>) -> Problem {
    match app.failures.note(peer) {
        None => Problem::wrong_credential(),
        Some(seconds) => Problem::too_many_failures(seconds),
    }
}

/// The address of the client, if the server knows it.
pub(crate) fn peer_of(request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(address)| address.ip())
}

/// The secret of the session in the cookies of a request.
pub(crate) fn session_of(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).into_iter();
    let mut cookies = cookies
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'));
    cookies.find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(value)
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
