//! Queries to the broker's management API: its queues, with their arguments and the policies that
//! are in force there, which no client sees over AMQP.
//!
//! One request, of HTTP/1.0, so that the answer ends with its connection and comes in one piece.
//! The size of the answer and the time are bounded. Only `check` uses it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fault::AmqpFault;
use super::url::{Management, RabbitMqConfig};
use crate::error::ErrorKind;
use brigade_runtime::tls;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Some hundred bytes for each queue of the vhost.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A queue, as the management API describes it. Fields that a version does not have are empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Described {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) policy: Option<String>,
    pub(super) operator_policy: Option<String>,
    /// `None` until the server has counted what is in the queue, which it does every five seconds.
    #[serde(deserialize_with = "known_table")]
    pub(super) effective_policy_definition: Option<BTreeMap<String, Value>>,
    #[serde(deserialize_with = "table")]
    pub(super) arguments: BTreeMap<String, Value>,
}

/// The server writes an empty table as `[]` in some versions, or as an empty text.
fn table<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Value>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Object(map) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    })
}

fn known_table<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<BTreeMap<String, Value>>, D::Error> {
    table(from).map(Some)
}

/// All queues of the vhost.
pub(super) async fn queues(
    config: &RabbitMqConfig,
    management: &Management,
) -> Result<Vec<Described>, AmqpFault> {
    let columns = "name,type,durable,auto_delete,policy,operator_policy,\
        effective_policy_definition,arguments";
    let path = format!("/api/queues/{}?columns={columns}", encode(&config.vhost));
    let answer = timeout(TIMEOUT, ask(config, management, &path))
        .await
        .map_err(|_| AmqpFault::timeout())??;
    let wrong = |error| {
        AmqpFault::with_source(
            ErrorKind::Protocol,
            "what answers there is not RabbitMQ's management API",
            error,
        )
    };
    serde_json::from_slice(&answer).map_err(wrong)
}

async fn ask(
    config: &RabbitMqConfig,
    management: &Management,
    path: &str,
) -> Result<Vec<u8>, AmqpFault> {
    let stream = TcpStream::connect((&*management.host, management.port)).await?;
    match config.tls_of(management)? {
        None => ask_on(stream, config, management, path).await,
        Some(tls) => match tls.wrap(&management.host, stream).await {
            Ok(stream) => ask_on(stream, config, management, path).await,
            Err(error) => {
                let known = tls::hint(
                    &error,
                    "the management API does not speak TLS there; write http://",
                );
                let (kind, hint) =
                    known.unwrap_or((ErrorKind::Unreachable, "the TLS handshake failed"));
                Err(AmqpFault::with_source(kind, hint, error))
            }
        },
    }
}

async fn ask_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    config: &RabbitMqConfig,
    to: &Management,
    path: &str,
) -> Result<Vec<u8>, AmqpFault> {
    let login = STANDARD.encode(format!("{}:{}", config.user, config.password));
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {login}\r\nAccept: \
            application/json\r\n\r\n",
        to.host
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // One that ends without a word of TLS has said all that it had to say: JSON that is cut off is
    // noticed.
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|config| config + 4);
    let status = answer
        .split(|byte| *byte == b' ')
        .nth(1)
        .filter(|_| answer.starts_with(b"HTTP/1."));
    match (status, end) {
        (Some(b"200"), Some(end)) => Ok(answer.split_off(end)),
        (Some(b"401" | b"403"), _) => Err(AmqpFault::new(
            ErrorKind::Refused,
            "this user may not ask it: give it the tag management (rabbitmqctl set_user_tags)",
        )),
        (Some(_), _) => Err(AmqpFault::new(ErrorKind::Protocol, "it refused")),
        (None, _) => Err(AmqpFault::new(
            ErrorKind::Protocol,
            "what answers there is not HTTP; if it wants TLS, write https://",
        )),
    }
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            byte if byte.is_ascii_alphanumeric() => encoded.push(byte.into()),
            byte => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
        encoded
    })
}
