//! The Redis server of the comparison: one for us, the raw scripts and the peers.

use std::path::PathBuf;
use std::sync::OnceLock;

use brigade_testkit::redis::Redis;

use crate::load::Result;

/// A server's socket. All that the server has is deleted, again and again.
const NAMED: &str = "BENCH_REDIS_SOCKET";

static SOCKET: OnceLock<PathBuf> = OnceLock::new();

/// Lives as long as the comparison. Without a server that is named, it starts one.
pub(crate) struct Server(#[expect(dead_code, reason = "ends with this")] Option<Redis>);

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let (server, socket) = match std::env::var_os(NAMED) {
            Some(socket) => (None, socket.into()),
            None => {
                let server = Redis::start(&[])?;
                let socket = server.socket();
                (Some(server), socket)
            }
        };
        SOCKET.get_or_init(|| socket);
        Ok(Self(server))
    }
}

pub(crate) fn url() -> Result<String> {
    Ok(format!(
        "redis+unix://{}",
        SOCKET.get().ok_or("a server was started")?.display()
    ))
}

/// One connection to a server that has nothing.
pub(crate) async fn connect_to_empty() -> Result<redis::aio::MultiplexedConnection> {
    // A busy machine is slow, which is no error.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = redis::Client::open(url()?)?
        .get_multiplexed_async_connection_with_config(&patient)
        .await?;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
    Ok(connection)
}
