//! [`Broker::connect`]: the one place that names the stores.

use std::sync::Arc;

use super::Broker;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::store::JobStore;
use brigade_core::store::url::redact::{redact, split_scheme};

impl Broker {
    /// Connects to the broker of a URL: `sqlite:jobs.db` (a file, made if it is not there),
    /// `sqlite:jobs.db?synchronous=normal`, `sqlite::memory:` (for tests); with cargo feature
    /// `redis` `redis://host/`, `redis+unix:///path`, `redis+sentinel://host/name`,
    /// `redis+cluster://host,host`. `docs/brokers.md` has all options.
    ///
    /// # Errors
    ///
    /// `BadOption` for a URL that is none, `Unsupported` for a file of another program or of a
    /// later version, or a server that is too old, `Refused` for a wrong password, `Unreachable`,
    /// `Os`.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let clock = Clock::default();
        let store: Arc<dyn JobStore> = match url.split_once(':') {
            #[cfg(feature = "redis")]
            Some((
                "redis" | "rediss" | "redis+unix" | "unix" | "redis+sentinel" | "rediss+sentinel"
                | "redis+cluster" | "rediss+cluster",
                _,
            )) => brigade_redis::connect(url, clock.clone()).await?,
            #[cfg(feature = "rabbitmq")]
            Some(("amqp" | "amqps", _)) => brigade_rabbitmq::connect(url, clock.clone()).await?,
            #[cfg(feature = "sqlite")]
            Some(("sqlite", rest)) => brigade_sqlite::connect(rest, clock.clone()).await?,
            _ => return Err(unknown_scheme(url)),
        };
        Ok(Self::new(store, clock))
    }

    /// A broker's URL for logs and people: passwords, and whatever could be one in a mistyped URL,
    /// are `***`. Any text is allowed. The errors of [`connect`](Broker::connect) have no passwords
    /// in them either.
    ///
    /// ```
    /// assert_eq!(brigade::Broker::redacted_url("redis://me:secret@host/1"), "redis://me:***@host/1");
    /// assert_eq!(brigade::Broker::redacted_url("redis:/me:secret@host"), "redis:***@host");
    /// ```
    pub fn redacted_url(url: &str) -> String {
        redact(url)
    }
}

/// What this build has.
const SCHEMES: &str = match (
    cfg!(feature = "sqlite"),
    cfg!(feature = "redis"),
    cfg!(feature = "rabbitmq"),
) {
    (true, true, true) => "sqlite, redis, amqp",
    (true, true, false) => "sqlite, redis (rabbitmq is a cargo feature that is off)",
    (true, false, true) => "sqlite, amqp (redis is a cargo feature that is off)",
    (true, false, false) => "sqlite (redis and rabbitmq are cargo features that are off)",
    (false, true, true) => "redis, amqp (sqlite is a cargo feature that is off)",
    (false, true, false) => "redis (sqlite and rabbitmq are cargo features that are off)",
    (false, false, _) => "amqp (sqlite and redis are cargo features that are off)",
};

/// Quotes no more of the text than a scheme: any other part may be a password.
fn unknown_scheme(url: &str) -> Error {
    let text = match split_scheme(url) {
        Some((scheme, _)) => {
            format!("connect to a broker of scheme {scheme:?}: there are {SCHEMES}")
        }
        None => format!(
            "connect to a broker by a text that has no scheme: write sqlite:jobs.db or \
                redis://host; there are {SCHEMES}"
        ),
    };
    Error::new(ErrorKind::BadOption, text)
}
