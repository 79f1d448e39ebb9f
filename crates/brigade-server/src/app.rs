//! [`App`]: what every handler has.

use std::ops::Deref;
use std::sync::Arc;

use brigade::Broker;

use crate::options::ServerOptions;

/// The broker and the options, shared by all handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<AppParts>);

/// What [`App`] shares.
pub(crate) struct AppParts {
    pub(crate) broker: Broker,
    pub(crate) options: ServerOptions,
}

impl App {
    pub(crate) fn new(broker: Broker, options: ServerOptions) -> Self {
        Self(Arc::new(AppParts { broker, options }))
    }
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}
