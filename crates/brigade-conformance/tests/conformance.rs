//! Brigade's own stores pass the suite, on the real thing. What each of them can do is written down
//! here.

use std::process::ExitCode;

use brigade::store::Reply;
use brigade::{Broker, Capabilities};
use brigade_conformance::{PlaceError, TestPlace, TestedStore};
use brigade_testkit::postgres::Postgres as PostgresServer;
use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use brigade_testkit::redis::Redis as RedisServer;

fn main() -> ExitCode {
    brigade_conformance::run(&[
        &Sqlite::File,
        &Sqlite::Memory,
        &Postgres,
        &Redis,
        &RabbitMqQueues::Classic,
        &RabbitMqQueues::Priorities,
        &RabbitMqQueues::Quorum,
    ])
}

/// What SQLite and Redis have in common.
const EVERYTHING: Capabilities = Capabilities {
    durable: true,
    listing: true,
    scheduling: true,
    schedules: true,
    priorities: true,
    keys: true,
    unique: true,
    limits: true,
    manager: false,
    consumers: true,
    statistics: true,
    events: true,
    flows: true,
    results: true,
    answers: false,
    passes: false,
    priority_range: (i32::MIN, i32::MAX),
    whole_batches: true,
    keeps_places: true,
    pauses: true,
    cancels: true,
    clock: true,
    dead_queues: false,
    payload_bytes_max: 16 << 20,
};

fn connect(url: &str) -> Reply<'_, Broker> {
    Box::pin(Broker::connect(url))
}

/// A file of its own for each case, or no file.
enum Sqlite {
    File,
    Memory,
}

impl TestedStore for Sqlite {
    fn name(&self) -> &str {
        match self {
            Self::File => "sqlite_file",
            Self::Memory => "sqlite_memory",
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: matches!(self, Self::File),
            ..EVERYTHING
        }
    }

    fn place(&self) -> Result<TestPlace, PlaceError> {
        if matches!(self, Self::Memory) {
            return Ok(TestPlace::new("sqlite::memory:"));
        }
        let directory = tempfile::tempdir()?;
        let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
        Ok(TestPlace::new(url).keep(directory))
    }

    fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker> {
        connect(address)
    }
}

/// One server for all cases, in which each has a database of its own.
struct Postgres;

impl TestedStore for Postgres {
    fn name(&self) -> &str {
        "postgres"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            scheduling: true,
            schedules: true,
            priorities: true,
            keys: true,
            unique: true,
            flows: true,
            priority_range: (i32::MIN, i32::MAX),
            whole_batches: true,
            keeps_places: true,
            pauses: true,
            cancels: true,
            clock: true,
            listing: true,
            results: true,
            statistics: true,
            events: true,
            consumers: true,
            limits: true,
            payload_bytes_max: 16 << 20,
            ..Capabilities::minimal()
        }
    }

    fn place(&self) -> Result<TestPlace, PlaceError> {
        Ok(TestPlace::new(PostgresServer::shared()?.fresh_database()?))
    }

    fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker> {
        connect(address)
    }
}

/// A server of its own for each case.
struct Redis;

impl TestedStore for Redis {
    fn name(&self) -> &str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            manager: true,
            ..EVERYTHING
        }
    }

    fn place(&self) -> Result<TestPlace, PlaceError> {
        let server = RedisServer::start(&[])?;
        Ok(TestPlace::new(server.url()).keep(server))
    }

    fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker> {
        connect(address)
    }
}

/// One server for all cases, in which each has a namespace of its own.
enum RabbitMqQueues {
    Classic,
    Priorities,
    Quorum,
}

impl TestedStore for RabbitMqQueues {
    fn name(&self) -> &str {
        match self {
            Self::Classic => "rabbitmq",
            Self::Priorities => "rabbitmq_with_priorities",
            Self::Quorum => "rabbitmq_quorum",
        }
    }

    fn capabilities(&self) -> Capabilities {
        let priorities = matches!(self, Self::Priorities);
        Capabilities {
            durable: true,
            scheduling: true,
            answers: true,
            passes: true,
            consumers: true,
            dead_queues: true,
            priorities,
            priority_range: (0, if priorities { 9 } else { 0 }),
            ..Capabilities::minimal()
        }
    }

    fn place(&self) -> Result<TestPlace, PlaceError> {
        let options = match self {
            Self::Classic => "",
            Self::Priorities => "&priorities=9",
            Self::Quorum => "&queues=quorum",
        };
        let server = RabbitMq::shared()?;
        let url = format!("{}?ns={}{options}", server.url(), namespace());
        Ok(TestPlace::new(url))
    }

    fn connect<'a>(&'a self, address: &'a str) -> Reply<'a, Broker> {
        connect(address)
    }
}
