//! [`Case`]: one test of the suite, and the capabilities that it needs.

use std::future::Future;
use std::pin::Pin;

use brigade::Capabilities;
use tokio::runtime::{Builder, Runtime};

use crate::subject::{OpenPlace, Subject};
use crate::tested_store::{PlaceError, TestedStore};

/// One test of the suite.
pub(crate) struct Case {
    /// The path of its function in this crate.
    pub(crate) path: &'static str,
    pub(crate) run: fn(Subject) -> CaseFuture,
    pub(crate) needs: &'static [Need],
    pub(crate) is_on_one_thread: bool,
}

/// What a case does; it panics if the store does not conform.
pub(crate) type CaseFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A capability that a case needs.
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) is_declared: fn(&Capabilities) -> bool,
}

/// A [`Case`]: the name of its function, then the capabilities that it needs, of which `a or b` is
/// one.
macro_rules! case {
    ($name:ident $(: $($need:ident $(or $other:ident)*),+)?) => {
        $crate::case::Case {
            path: concat!(module_path!(), "::", stringify!($name)),
            run: |subject| Box::pin($name(subject)),
            needs: &[$($($crate::case::Need {
                name: concat!(stringify!($need) $(, " or ", stringify!($other))*),
                is_declared: |can| can.$need $(|| can.$other)*,
            }),+)?],
            is_on_one_thread: false,
        }
    };
}
pub(crate) use case;

impl Case {
    /// The same on a runtime of one thread: for what is measured of a thread, or blocks it.
    pub(crate) const fn on_one_thread(self) -> Self {
        Self {
            is_on_one_thread: true,
            ..self
        }
    }

    /// The module and the name of its function.
    pub(crate) fn name(&self) -> &'static str {
        self.path
            .split_once("::cases::")
            .map_or(self.path, |(_, name)| name)
    }

    /// The names of the capabilities that it needs and that are not there.
    pub(crate) fn missing(&self, can: &Capabilities) -> Vec<&'static str> {
        let missing = self.needs.iter().filter(|need| !(need.is_declared)(can));
        missing.map(|need| need.name).collect()
    }

    /// Runs it in a place of its own.
    pub(crate) fn run(&self, store: &'static dyn TestedStore) -> Result<(), PlaceError> {
        let place = store.place()?;
        let address = place.address.clone();
        self.runtime()?.block_on(async {
            let broker = store.connect(&address).await?;
            let place = OpenPlace { store, address };
            (self.run)(Subject { broker, place }).await;
            Ok::<_, PlaceError>(())
        })?;
        drop(place);
        Ok(())
    }

    fn runtime(&self) -> std::io::Result<Runtime> {
        let mut builder = if self.is_on_one_thread {
            Builder::new_current_thread()
        } else {
            Builder::new_multi_thread()
        };
        builder.worker_threads(2).enable_all().build()
    }
}
