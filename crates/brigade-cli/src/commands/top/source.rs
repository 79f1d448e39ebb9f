//! What is watched: a broker, or the pool of a running program.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use brigade::{Broker, Capabilities, Error};

use super::pool;
use crate::connection::Globals;

pub(super) enum Source {
    Broker(BrokerSource),
    /// By the path of its socket.
    Pool(PathBuf),
}

/// A connection to a broker, which is made again when it has ended for good.
pub(super) struct BrokerSource {
    url: String,
    broker: Mutex<Broker>,
}

impl Source {
    pub(super) async fn of_broker(globals: &Globals) -> anyhow::Result<Self> {
        Ok(Self::Broker(BrokerSource {
            broker: Mutex::new(globals.connect().await?),
            url: globals.url()?,
        }))
    }

    pub(super) async fn of_pool(path: PathBuf) -> anyhow::Result<Self> {
        pool::connect(&path).await?;
        Ok(Self::Pool(path))
    }

    /// Its name, without a password.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Broker(source) => Broker::redacted_url(&source.url),
            Self::Pool(path) => format!("pool {}", path.display()),
        }
    }

    pub(super) fn capabilities(&self) -> Option<Capabilities> {
        match self {
            Self::Broker(source) => Some(source.broker().capabilities()),
            Self::Pool(_) => None,
        }
    }
}

impl BrokerSource {
    pub(super) fn broker(&self) -> Broker {
        self.broker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) async fn connect_again(&self) -> Result<(), Error> {
        let broker = Broker::connect(&self.url).await?;
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = broker;
        Ok(())
    }
}
