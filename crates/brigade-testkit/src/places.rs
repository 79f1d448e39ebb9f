//! Several Redis servers together, on ports of the loopback: a primary with replicas, sentinels,
//! clusters. All are gone with the test.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::facts;
use crate::redis::Redis;

/// Far beyond what gossip takes.
const BOUND: Duration = Duration::from_secs(30);

/// A free port, below those that the kernel gives to connections.
pub fn free_port() -> u16 {
    loop {
        let drawn = RandomState::new().hash_one(std::process::id()) % 20_000;
        let port = 10_000 + u16::try_from(drawn).unwrap_or(0);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server with a port.
///
/// # Errors
///
/// As [`Redis::start`].
pub fn start_at(port: u16, options: &[&str]) -> io::Result<Redis> {
    let port = port.to_string();
    let mut all = vec!["--port", &port, "--repl-diskless-sync-delay", "0"];
    all.extend(options);
    Redis::start(&all)
}

/// A primary with replicas that have caught up.
pub struct Replicated {
    /// The primary's port.
    pub port: u16,
    /// The first is the primary.
    pub servers: Vec<Redis>,
}

impl Replicated {
    /// Starts them, with further options.
    ///
    /// # Errors
    ///
    /// As [`Redis::start`].
    pub fn start(replicas: usize, options: &[&str]) -> io::Result<Self> {
        let port = free_port();
        let mut servers = vec![start_at(port, options)?];
        for _ in 0..replicas {
            let of = port.to_string();
            let mut all = vec!["--replicaof", "127.0.0.1", &of];
            all.extend(options);
            servers.push(start_at(free_port(), &all)?);
        }
        // A replica that is called online acknowledges nothing for up to a second: so write
        // something until it has said its word.
        let acknowledge = |info: String| {
            info.matches("state=online").count() == replicas && !info.contains(",offset=0,")
        };
        let have_acknowledged = || {
            servers[0].ask("SET probe 1").is_ok()
                && servers[0].ask("INFO replication").is_ok_and(acknowledge)
        };
        wait("the replicas acknowledge", have_acknowledged)?;
        servers[0].ask("DEL probe")?;
        Ok(Self { port, servers })
    }
}

/// Sentinels of one primary, which they call `main`.
pub struct Sentinels {
    /// Their ports.
    pub ports: Vec<u16>,
    children: Vec<Child>,
    _directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts three and waits until they know one another and the replicas. They take a primary for
    /// dead after half a second.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    #[expect(clippy::disallowed_methods, reason = "the kit starts servers")]
    pub fn start(primary: u16, replicas: usize) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("brigade-sentinel-")
            .tempdir()?;
        let mut this = Self {
            ports: Vec::new(),
            children: Vec::new(),
            _directory: directory,
        };
        for index in 0..3 {
            let port = free_port();
            let path = this._directory.path().join(format!("{index}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\nlogfile {index}.log\nsentinel monitor main 127.0.0.1 \
                    {primary} 2\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main \
                 3000\nsentinel parallel-syncs main 2\n"
            );
            fs::write(&path, text)?;
            let start = |program: &str| {
                Command::new(program)
                    .current_dir(this._directory.path())
                    .arg(&path)
                    .arg("--sentinel")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            };
            let child = start("redis-server").or_else(|_| start("valkey-server"))?;
            this.children.push(child);
            this.ports.push(port);
        }
        for port in &this.ports {
            let known = || {
                let quorum = ask(*port, "SENTINEL CKQUORUM main")
                    .is_ok_and(|answer| answer.starts_with("+OK 3 usable"));
                quorum
                    && ask(*port, "SENTINEL REPLICAS main")
                        .is_ok_and(|answer| answer.starts_with(&format!("*{replicas}\r\n")))
            };
            wait("the sentinels know one another", known)?;
        }
        Ok(this)
    }

    /// Their part of a URL.
    pub fn hosts(&self) -> String {
        hosts(&self.ports)
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A cluster.
pub struct Cluster {
    /// The ports of all nodes; the primaries first.
    pub ports: Vec<u16>,
    /// All nodes.
    pub nodes: Vec<Redis>,
}

/// How many slots a cluster has.
const SLOTS: usize = 16384;

impl Cluster {
    /// Starts three primaries that share the slots, each with so many replicas, and waits until all
    /// agree.
    ///
    /// # Errors
    ///
    /// As [`Redis::start`].
    pub fn start(replicas: usize, options: &[&str]) -> io::Result<Self> {
        const PRIMARIES: usize = 3;
        let (mut ports, mut buses, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PRIMARIES * (1 + replicas) {
            let (port, bus) = (free_port(), free_port());
            let bus_text = bus.to_string();
            let mut all = vec![
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_text,
                "--cluster-node-timeout",
                "2000",
            ];
            all.extend(options);
            nodes.push(start_at(port, &all)?);
            ports.push(port);
            buses.push(bus);
        }
        let this = Self { ports, nodes };
        // All of it before any of them meet: a node that knows another takes no epoch any more.
        for (index, node) in this.nodes.iter().enumerate() {
            said_ok(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))?;
            if index < PRIMARIES {
                let (first, last) = (
                    index * SLOTS / PRIMARIES,
                    (index + 1) * SLOTS / PRIMARIES - 1,
                );
                said_ok(node, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"))?;
            }
        }
        for (index, node) in this.nodes.iter().enumerate() {
            for (port, bus) in this.ports.iter().zip(&buses).skip(index + 1) {
                said_ok(node, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"))?;
            }
        }
        let met = |node: &Redis| {
            node.ask("CLUSTER NODES")
                .is_ok_and(|nodes| nodes.matches(" connected").count() == this.nodes.len())
        };
        wait("the nodes have met", || this.nodes.iter().all(met))?;
        for (index, node) in this.nodes.iter().enumerate().skip(PRIMARIES) {
            said_ok(
                node,
                &format!("CLUSTER REPLICATE {}", this.id(index % PRIMARIES)?),
            )?;
        }
        let ok = |node: &Redis| {
            let state = node
                .ask("CLUSTER INFO")
                .is_ok_and(|info| info.contains("cluster_state:ok"));
            state
                && node.ask("CLUSTER NODES").is_ok_and(|nodes| {
                    nodes.matches(" slave ").count() + nodes.matches("myself,slave ").count()
                        == PRIMARIES * replicas
                })
        };
        wait("the nodes agree", || this.nodes.iter().all(ok))?;
        let online = |node: &Redis| {
            node.ask("INFO replication")
                .is_ok_and(|info| info.matches("state=online").count() == replicas)
        };
        wait("the replicas are online", || {
            this.nodes[..PRIMARIES].iter().all(online)
        })?;
        Ok(this)
    }

    /// The id of a node.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn id(&self, index: usize) -> io::Result<String> {
        let answer = self.nodes[index].ask("CLUSTER MYID")?;
        answer
            .lines()
            .nth(1)
            .map(|line| line.trim().to_owned())
            .ok_or_else(|| io::Error::other(answer))
    }

    /// Which node has a slot, by its place.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn owner(&self, slot: u16) -> io::Result<Option<usize>> {
        for (index, node) in self.nodes.iter().enumerate() {
            let nodes = node.ask("CLUSTER NODES").unwrap_or_default();
            let own = nodes
                .lines()
                .find(|line| line.contains("myself,master"))
                .unwrap_or_default();
            let has = own
                .split(' ')
                .skip(8)
                .filter(|range| !range.starts_with('['))
                .any(|range| {
                    let (first, last) = range
                        .trim()
                        .split_once('-')
                        .unwrap_or((range.trim(), range.trim()));
                    first.parse().is_ok_and(|first: u16| first <= slot)
                        && last.parse().is_ok_and(|last: u16| slot <= last)
                });
            if has {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The nodes' part of a URL.
    pub fn hosts(&self) -> String {
        hosts(&self.ports)
    }
}

fn hosts(ports: &[u16]) -> String {
    ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn said_ok(server: &Redis, command: &str) -> io::Result<()> {
    let answer = server.ask(command)?;
    if answer.starts_with("+OK") {
        Ok(())
    } else {
        Err(io::Error::other(format!("{command}: {answer}")))
    }
}

fn wait(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    facts::wait_until(BOUND, holds)
        .map(drop)
        .ok_or_else(|| io::Error::other(format!("it takes too long until {what}")))
}

/// Sends one command in the inline form to a port; what it answered.
///
/// # Errors
///
/// What the operating system says.
pub fn ask(port: u16, command: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    // It answers what it was asked, and then ends as well; sentinels know no QUIT.
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
