//! [`TestedStore`]: a store, for the suite that tests it.

use std::any::Any;
use std::error::Error;
use std::fmt;

use brigade::store::Reply;
use brigade::{Broker, Capabilities};

/// Why there is no place for a test.
pub type PlaceError = Box<dyn Error + Send + Sync>;

/// A store under test: where it keeps its jobs, how to connect to it, what it can do.
pub trait TestedStore: Send + Sync {
    /// The name that the names of its cases begin with. Several entries may test one store, in
    /// several configurations.
    fn name(&self) -> &str;

    /// What the store can do, written down in the test. A case checks that the store declares
    /// exactly this, so a capability cannot get lost unnoticed with all the cases that need it.
    fn capabilities(&self) -> Capabilities;

    /// A place of its own for one case, where no jobs are: a directory, a server, a namespace.
    ///
    /// # Errors
    ///
    /// Whatever prevents it; the case then fails with that error.
    fn place(&self) -> Result<TestPlace, PlaceError>;

    /// Connects to a place. A [durable](Capabilities::durable) store is connected several times to
    /// one place, also from another process, and each connection works with the same jobs. Any
    /// other store is connected once.
    fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker>;
}

/// Where the jobs of one case are.
pub struct TestPlace {
    pub(crate) address: String,
    _kept: Option<Box<dyn Any + Send>>,
}

impl TestPlace {
    /// A place with this address: a path, a URL. Only [`TestedStore::connect`] interprets it.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            _kept: None,
        }
    }

    /// Keeps this value until the case has ended, and drops it then: a temporary directory, a
    /// running server.
    pub fn keep(self, value: impl Any + Send) -> Self {
        Self {
            _kept: Some(Box::new(value)),
            ..self
        }
    }
}

impl fmt::Debug for TestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestPlace")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
