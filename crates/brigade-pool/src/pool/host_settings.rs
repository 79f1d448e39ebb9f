//! What a pool wants of hosts that join it.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::remote::transport::{Listener, ListenerLimits};
use crate::remote::{Credentials, random_id};
use crate::wire::remote::{RandomId, check_times};

/// Where hosts may join, and when one that is away is given up.
#[derive(Clone, Debug)]
pub(super) struct HostSettings {
    pub(super) listeners: Vec<(String, Credentials)>,
    pub(super) beat: Duration,
    pub(super) keep: Duration,
    /// Distinguishes this pool from any other.
    pub(super) mark: RandomId,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            beat: Duration::from_secs(1),
            keep: Duration::from_secs(30),
            mark: RandomId::default(),
        }
    }
}

impl HostSettings {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_times(self.beat, self.keep).map_err(|what| Error::new(ErrorKind::BadOption, what))
    }

    pub(super) async fn bind(&mut self) -> Result<Vec<Listener>, Error> {
        let mut listeners = Vec::new();
        for (url, credentials) in &self.listeners {
            listeners.push(Listener::bind(url, credentials, ListenerLimits::default()).await?);
        }
        self.mark = random_id()?;
        Ok(listeners)
    }
}
