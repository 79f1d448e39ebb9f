//! The pool of connections: made when they are needed, up to a number, and given up when they
//! broke.

use std::future::ready;
use std::sync::Arc;

use deadpool::managed::{
    Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult,
};
use tokio::time::{Instant, timeout_at};

use super::connect::{Connector, ServerConnection, pause};
use super::connect_error::ConnectError;
use crate::error::{Error, ErrorKind};

/// A connection that goes back when it is dropped.
pub(super) type PooledConnection = Object<ConnectionMaker>;

pub(super) struct ConnectionMaker(Arc<Connector>);

impl Manager for ConnectionMaker {
    type Type = ServerConnection;
    type Error = ConnectError;

    fn create(&self) -> impl Future<Output = Result<ServerConnection, ConnectError>> + Send {
        self.0.open(None)
    }

    fn recycle(
        &self,
        connection: &mut ServerConnection,
        _: &Metrics,
    ) -> impl Future<Output = RecycleResult<ConnectError>> + Send {
        ready(if connection.is_over() {
            Err(RecycleError::message("the connection has ended"))
        } else {
            Ok(())
        })
    }
}

#[derive(Clone)]
pub(super) struct ConnectionPool {
    connections: deadpool::managed::Pool<ConnectionMaker>,
    pub(super) connector: Arc<Connector>,
}

impl ConnectionPool {
    pub(super) fn new(connector: Arc<Connector>) -> Result<Self, Error> {
        let connections = deadpool::managed::Pool::builder(ConnectionMaker(Arc::clone(&connector)))
            .max_size(connector.config.connections)
            // The server's process that was used last has its plans and pages in the caches.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Os, "make a pool of connections").with_source(error)
            })?;
        Ok(Self {
            connections,
            connector,
        })
    }

    /// A connection; one that cannot be made now is not waited for.
    pub(super) async fn get_at_once(&self) -> Result<PooledConnection, ConnectError> {
        self.connections.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            // It has no time limits and hooks of its own, and is never closed.
            _ => ConnectError::busy(),
        })
    }

    /// A connection. While none can be made for a reason that may pass, it is tried again.
    pub(super) async fn get(&self, until: Instant) -> Result<PooledConnection, ConnectError> {
        let mut last = None;
        let trying = async {
            let mut tried = 0;
            loop {
                match self.get_at_once().await {
                    Err(error) if error.is_passing() => last = Some(error),
                    got => return got,
                }
                pause(tried).await;
                tried += 1;
            }
        };
        match timeout_at(until, trying).await {
            Ok(got) => got,
            Err(_) => Err(last.unwrap_or_else(ConnectError::busy)),
        }
    }
}
