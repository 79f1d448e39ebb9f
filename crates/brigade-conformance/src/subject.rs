//! [`Subject`]: what a case is given.

use brigade::Broker;

use crate::tested_store::TestedStore;

/// A broker over the tested store, empty.
pub(crate) struct Subject {
    pub(crate) broker: Broker,
    pub(crate) place: OpenPlace,
}

/// Where the jobs of that broker are, for further connections.
#[derive(Clone)]
pub(crate) struct OpenPlace {
    pub(crate) store: &'static dyn TestedStore,
    pub(crate) address: String,
}

impl OpenPlace {
    /// Another connection. Only for durable stores.
    pub(crate) async fn connect(&self) -> Broker {
        match self.store.connect(&self.address).await {
            Ok(broker) => broker,
            Err(error) => panic!("connect once more to {}: {error}", self.store.name()),
        }
    }
}
