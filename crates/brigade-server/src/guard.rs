//! What every request passes before its handler, and every response after it: the `Host` check, its
//! credential, headers for browsers, and the access log. One middleware does all of it, because
//! each costs every request several allocations.
//!
//! A page of another site may have its name resolve to this host (DNS rebinding), and a browser
//! then takes both for one site. So only requests for a known name are answered: addresses,
//! `localhost`, and the names that the options give.
//!
//! The access log has the path without the query, because a query may quote a payload, and without
//! the name of a lease; it never has headers or bodies. A request whose client leaves before the
//! answer has a line as well, with status 499: it may have been carried out.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use axum::extract::{MatchedPath, OriginalUri, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use brigade::{TraceParent, span};
use tracing::Instrument as _;

use crate::app::App;
use crate::auth::Principal;
use crate::identify::principal_of;
use crate::peer::peer_of;
use crate::problem::{ConnectionEnded, Problem};

/// The policy of a response that sets none itself: nothing is loaded, nothing runs.
const NOTHING: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The status in the log of a request that was dropped before its answer.
const DROPPED: u16 = 499;
/// Bytes of a path in the log.
const PATH_BYTES_MAX: usize = 512;
/// What comes before the name of a lease in a path.
const LEASES: &str = "/v1/leases/";

/// The header with the trace of a request (W3C).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The ends of the routes that push or call.
const TRACED: [&str; 3] = ["/v1/queues/{queue}/jobs", "/v1/flows", "/v1/calls/{task}"];

/// The line of a request in the access log, written when it is dropped: that happens after the
/// answer, or earlier, together with the handler, when the client leaves or is cut off.
struct AccessLine {
    app: App,
    began: Instant,
    peer: Option<IpAddr>,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    by: Option<Principal>,
    status: u16,
}

/// Checks the host and the credential, puts the [`Principal`] of a request into its extensions if
/// it has one, sets headers, writes the access log.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let mut line = AccessLine::new(&app, &request);
    let admitted = match has_known_host(&app, &request) {
        true => principal_of(&app, &request),
        false => Err(Problem::wrong_host()),
    };
    let mut response = match admitted {
        Ok(principal) => {
            line.by.clone_from(&principal);
            if let Some(principal) = principal {
                request.extensions_mut().insert(principal);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    if response.extensions().get::<ConnectionEnded>().is_some() {
        app.options.ended.cancel();
    }
    set_headers(&mut response);
    line.status = response.status().as_u16();
    response
}

/// Has a span around a request that pushes jobs or makes a call. What it causes belongs to that
/// span, so its context takes the place of the one that the client sent.
pub(crate) async fn trace(mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    if request.method() != Method::POST || !TRACED.iter().any(|traced| route.ends_with(traced)) {
        return next.run(request).await;
    }
    let given = request.headers().get(TRACEPARENT);
    let given: Option<TraceParent> = given.and_then(|text| text.to_str().ok()?.parse().ok());
    let span = span::request(request.method().as_str(), route, given.as_ref());
    if let Some(own) = span::traceparent_of(&span)
        && let Ok(own) = HeaderValue::from_str(own.as_str())
    {
        request.headers_mut().insert(TRACEPARENT, own);
    }
    let response = next.run(request).instrument(span.clone()).await;
    span::record_response(&span, response.status().as_u16());
    response
}

impl AccessLine {
    fn new(app: &App, request: &Request) -> Self {
        let extensions = request.extensions();
        let original = extensions.get::<OriginalUri>();
        Self {
            app: app.clone(),
            began: Instant::now(),
            peer: peer_of(request),
            method: request.method().clone(),
            uri: original.map_or_else(|| request.uri(), |uri| &uri.0).clone(),
            route: extensions.get::<MatchedPath>().cloned(),
            by: None,
            status: DROPPED,
        }
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let (status, took) = (self.status, self.began.elapsed());
        let route = self.route.as_ref().map_or("(none)", MatchedPath::as_str);
        self.app.requests.count(route, status, took);
        tracing::info!(
            target: "brigade::access",
            method = %self.method, path = ?logged(self.uri.path()), status, ?took,
            peer = self.peer.map(tracing::field::display),
            by = self.by.as_ref().map(|by| &*by.name),
            "request"
        );
    }
}

/// A path as the log has it: cut, and without the name of a lease, which is a credential.
fn logged(path: &str) -> String {
    let path = &path[..path.floor_char_boundary(PATH_BYTES_MAX)];
    let Some((before, rest)) = path.split_once(LEASES) else {
        return path.to_owned();
    };
    let after = rest.find('/').map_or("", |at| &rest[at..]);
    format!("{before}{LEASES}-{after}")
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
    headers.reserve(defaults.len());
    for (name, value) in defaults {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

fn has_known_host(app: &App, request: &Request) -> bool {
    let Some(known) = app.options.known_hosts() else {
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

    #[test]
    fn the_log_has_no_lease_and_no_long_path() {
        for (path, expected) in [
            ("/v1/leases/secret/ack", "/v1/leases/-/ack"),
            ("/jobs/v1/leases/secret", "/jobs/v1/leases/-"),
            ("/v1/leases", "/v1/leases"),
            ("/v1/queues/q", "/v1/queues/q"),
        ] {
            assert_eq!(logged(path), expected);
        }
        assert_eq!(logged(&format!("/{}", "é".repeat(1_000))).len(), 511);
    }
}
