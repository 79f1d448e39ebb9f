//! What every request passes before its handler, and every response after it: the `Host` check,
//! headers for browsers, and the access log.
//!
//! A page of another site may have its name resolve to this host (DNS rebinding), and a browser
//! then takes both for one site. So only requests for a known name are answered: addresses,
//! `localhost`, and the names that the options give.
//!
//! The access log has the path without the query, because a query may quote a payload; it never has
//! headers or bodies.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use axum::extract::{MatchedPath, OriginalUri, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::auth::Principal;
use crate::identify::peer_of;
use crate::problem::Problem;

/// The policy of a response that sets none itself: nothing is loaded, nothing runs.
const NOTHING: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Checks the host, sets headers, writes the access log.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (peer, method) = (peer_of(&request), request.method().clone());
    let path = request.extensions().get::<OriginalUri>();
    let path = path.map_or_else(
        || request.uri().path().to_owned(),
        |uri| uri.path().to_owned(),
    );
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "(none)".to_owned(), |route| route.as_str().to_owned());
    let mut response = match has_known_host(&app, &request) {
        true => next.run(request).await,
        false => Problem::wrong_host().into_response(),
    };
    set_headers(&mut response);
    let by = response.extensions().get::<Principal>().map(|by| &*by.name);
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.requests.count(&route, status, took);
    tracing::info!(
        target: "brigade::access",
        %method, ?path, status, ?took, peer = peer.map(tracing::field::display), by,
        "request"
    );
    response
}

fn set_headers(response: &mut Response) {
    let headers = response.headers_mut();
    let defaults: [(HeaderName, &'static str); 5] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, NOTHING),
    ];
    for (name, value) in defaults {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

fn has_known_host(app: &App, request: &Request) -> bool {
    let Some(known) = &app.options.hosts else {
        return true;
    };
    let header = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    // A request line with a whole URL has no other authority than that.
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let Some(host) = authority.or(header) else {
        return false;
    };
    let name = without_port(host);
    is_address(name)
        || name.eq_ignore_ascii_case("localhost")
        || known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_address(name: &str) -> bool {
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        for address in ["127.0.0.1", "[::1]", "192.0.2.7"] {
            assert!(is_address(address), "{address}");
        }
        for name in [
            "::1",
            "localhost",
            "127.0.0.1.evil.example",
            "[evil]",
            "",
            "0x7f000001",
        ] {
            assert!(!is_address(name), "{name}");
        }
        assert_eq!(without_port("localhost:7420"), "localhost");
        assert_eq!(without_port("[::1]:7420"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("evil.example"), "evil.example");
    }
}
