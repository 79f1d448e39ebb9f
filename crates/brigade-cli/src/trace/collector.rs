//! [`CollectorClient`]: HTTP requests of the exporter to a collector.
//!
//! A request has a connection of its own, its steps have a time limit, and of the answer only the
//! status counts. It blocks, on the exporter's own thread, so it needs no runtime and holds none
//! up.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use opentelemetry_http::{HttpClient, HttpError};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

use crate::show::note;

/// The longest wait for each step of a request.
const STEP_TIME: Duration = Duration::from_secs(5);
/// The longest answer of a collector that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Sends requests of the exporter.
#[derive(Debug)]
pub(super) struct CollectorClient {
    tls: OnceLock<Arc<ClientConfig>>,
    /// The last request failed; that was noted.
    is_failing: AtomicBool,
}

impl CollectorClient {
    pub(super) fn new() -> Self {
        Self {
            tls: OnceLock::new(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Made when it is needed first: most collectors are on the same host.
    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let mut roots = RootCertStore::empty();
        // Those that cannot be read are missed only where a collector has a certificate of theirs.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }

    fn send(&self, request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
        let no_host = || io::Error::other("the address of the collector has no host");
        let uri = request.uri();
        let (host, is_tls) = (
            uri.host().ok_or_else(no_host)?,
            uri.scheme_str() == Some("https"),
        );
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = connect(host, port)?;
        if !is_tls {
            return exchange(stream, request);
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(self.tls()?, name).map_err(io::Error::other)?;
        exchange(StreamOwned::new(session, stream), request)
    }
}

#[async_trait::async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(&request);
        let problem = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        if let Some(problem) = problem.filter(|_| !was_failing) {
            note!("traces are lost, the collector cannot take them: {problem}");
        }
        Ok(sent?)
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut last = io::Error::other("the name of the collector has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_TIME) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP_TIME))?;
                stream.set_write_timeout(Some(STEP_TIME))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One request on a connection of its own. Of the answer only the status counts.
fn exchange(
    mut stream: impl Read + Write,
    request: &Request<Bytes>,
) -> io::Result<Response<Bytes>> {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-length: {}\r\n",
        request.body().len()
    )
    .into_bytes();
    for (name, value) in request.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    stream.write_all(&head)?;
    stream.write_all(request.body())?;
    stream.flush()?;
    let mut answer = Vec::new();
    // A collector may end a TLS session without a word; the status is there by then.
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).ok();
    let status = String::from_utf8_lossy(&answer);
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    Ok(response)
}
