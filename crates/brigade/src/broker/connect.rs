//! [`Broker::connect`]: the only place that names the stores.
//!
//! A new store is one entry in `STORES` and one line in `connect`. A store is compiled in if its
//! cargo feature is on; the error for a URL of another one names the feature. No error here quotes
//! more of a URL than its scheme, as the rest may contain a password.

use std::sync::Arc;

use super::Broker;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::store::JobStore;
use brigade_core::store::url::redact::{redact, split_scheme};

impl Broker {
    /// Connects to the broker of a URL: `sqlite:jobs.db` (a file, made if it is not there),
    /// `sqlite:jobs.db?synchronous=normal`, `sqlite::memory:` (for tests); with cargo feature
    /// `postgres` `postgres://user@host/database`; with `redis` `redis://host/`,
    /// `redis+unix:///path`, `redis+sentinel://host/name`, `redis+cluster://host,host`; with
    /// `rabbitmq` `amqp://host/`; with `tls` also `rediss://` and `amqps://`. `docs/brokers.md` has
    /// all options.
    ///
    /// # Errors
    ///
    /// `BadOption` for a URL that is none, `Unsupported` for a store whose cargo feature is off, a
    /// file of another program or of a later version, or a server that is too old, `Refused` for a
    /// wrong password, `Unreachable`, `Os`.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let clock = Clock::default();
        let store: Result<Arc<dyn JobStore>, Error> = match feature_of(url) {
            #[cfg(feature = "sqlite")]
            Some("sqlite") => brigade_sqlite::connect(url, clock.clone()).await,
            #[cfg(feature = "postgres")]
            Some("postgres") => brigade_postgres::connect(url, clock.clone()).await,
            #[cfg(feature = "redis")]
            Some("redis") => brigade_redis::connect(url, clock.clone()).await,
            #[cfg(feature = "rabbitmq")]
            Some("rabbitmq") => brigade_rabbitmq::connect(url, clock.clone()).await,
            _ => Err(no_store(url, &STORES)),
        };
        Ok(Self::from_store(store?, clock))
    }

    /// Makes the schema of a PostgreSQL database or brings it up to date; whether it was not. A
    /// program that connects does this as well, if its user may: this is for a user with more
    /// rights than those that the program has.
    ///
    /// # Errors
    ///
    /// As [`connect`](Broker::connect); `Unsupported` for another broker, which needs no step of
    /// this kind, and for a schema that is newer than this program.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async))]
    pub async fn migrate(url: &str) -> Result<bool, Error> {
        match feature_of(url) {
            #[cfg(feature = "postgres")]
            Some("postgres") => brigade_postgres::migrate(url).await,
            _ => Err(no_schema(url)),
        }
    }

    /// The SQL that [`migrate`](Broker::migrate) would run, for an administrator to read and run;
    /// empty if there is nothing to do.
    ///
    /// # Errors
    ///
    /// As [`migrate`](Broker::migrate).
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async))]
    pub async fn migration(url: &str) -> Result<String, Error> {
        match feature_of(url) {
            #[cfg(feature = "postgres")]
            Some("postgres") => brigade_postgres::migration(url).await,
            _ => Err(no_schema(url)),
        }
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

/// A store that there is.
struct StoreEntry {
    /// The cargo feature that has it.
    feature: &'static str,
    is_on: bool,
    schemes: &'static [&'static str],
}

const STORES: [StoreEntry; 4] = [
    StoreEntry {
        feature: "sqlite",
        is_on: cfg!(feature = "sqlite"),
        schemes: &["sqlite"],
    },
    StoreEntry {
        feature: "postgres",
        is_on: cfg!(feature = "postgres"),
        schemes: &["postgres", "postgresql"],
    },
    StoreEntry {
        feature: "redis",
        is_on: cfg!(feature = "redis"),
        schemes: &[
            "redis",
            "rediss",
            "redis+unix",
            "unix",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
        ],
    },
    StoreEntry {
        feature: "rabbitmq",
        is_on: cfg!(feature = "rabbitmq"),
        schemes: &["amqp", "amqps"],
    },
];

fn feature_of(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once(':')?;
    let mut stores = STORES.iter();
    Some(
        stores
            .find(|store| store.schemes.contains(&scheme))?
            .feature,
    )
}

/// The error of [`Broker::migrate`] for another broker than PostgreSQL.
fn no_schema(url: &str) -> Error {
    match feature_of(url) {
        Some(feature) if feature != "postgres" => Error::new(
            ErrorKind::Unsupported,
            "migrate a broker: only PostgreSQL has a schema to make; what another broker needs is \
                made when a program connects",
        ),
        _ => no_store(url, &STORES),
    }
}

/// Quotes no more of the text than a scheme: any other part may be a password.
fn no_store(url: &str, stores: &[StoreEntry]) -> Error {
    let Some((scheme, _)) = split_scheme(url) else {
        let text = "the URL of the broker begins with no known scheme: write sqlite:jobs.db, \
            postgres://user@host/database, redis://host or amqp://host";
        return Error::new(ErrorKind::BadOption, text);
    };
    let known = stores.iter().find(|store| store.schemes.contains(&scheme));
    if let Some(StoreEntry { feature, .. }) = known {
        let text = format!(
            "connect to a broker of scheme {scheme:?}: this program was built without; turn on the \
                feature {feature} of the crate brigade"
        );
        return Error::new(ErrorKind::Unsupported, text);
    }
    let on = stores.iter().filter(|store| store.is_on);
    let on: Vec<&str> = on.map(|store| store.schemes[0]).collect();
    let on = match on.as_slice() {
        [] => "none in this program, which was built without a store".to_owned(),
        on => on.join(", "),
    };
    let text = format!("unknown broker scheme {scheme:?} (supported: {on})");
    Error::new(ErrorKind::BadOption, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_built_in_is_named_with_its_feature() {
        let stores = STORES.map(|store| StoreEntry {
            is_on: store.feature == "sqlite",
            ..store
        });
        for (url, kind, expected) in [
            (
                "redis+unix:///me:secret",
                ErrorKind::Unsupported,
                "the feature redis of",
            ),
            (
                "amqps://me:secret@host",
                ErrorKind::Unsupported,
                "the feature rabbitmq of",
            ),
            (
                "mysql://me:secret@host",
                ErrorKind::BadOption,
                "(supported: sqlite",
            ),
            ("me:secret@host", ErrorKind::BadOption, "no known scheme"),
            ("secret", ErrorKind::BadOption, "no known scheme"),
        ] {
            let error = no_store(url, &stores);
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
