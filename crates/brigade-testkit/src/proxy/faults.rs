//! Where a proxy connects to, and what it does to the chunks that go through.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Where the proxy connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// Of `tcp://address:port`, `tls://address:port` or `unix:///path`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for anything else; hosts must be addresses.
    pub fn of(url: &str) -> io::Result<Self> {
        if let Some(path) = url.strip_prefix("unix://") {
            return Ok(Self::Unix(path.into()));
        }
        let (_, address) = url.split_once("://").unwrap_or_default();
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the proxy, to its target.
    There = 0,
    /// From the target.
    Back = 1,
}

/// Both directions.
pub const BOTH: [Way; 2] = [Way::There, Way::Back];

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// RST on both sides, whatever is under way.
    Reset,
    /// FIN on both sides, behind what was forwarded.
    Finish,
}

/// What happens to the chunks of one direction. The default forwards them as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How long each chunk waits; never before an earlier one.
    pub delay: Range<Duration>,
    /// How fast they go on.
    pub bytes_per_second: Option<u32>,
    /// Most bytes of a chunk.
    pub chunk_bytes: usize,
    /// Of a thousand chunks, how many have one bit changed.
    pub flips: u32,
    /// How many go on twice.
    pub duplicates: u32,
    /// How many do not go on.
    pub drops: u32,
    /// How many go on with their halves swapped.
    pub swaps: u32,
    /// Each connection is cut when exactly so many bytes went this way.
    pub cut_after: Option<(u64, Cut)>,
}

impl Default for Faults {
    fn default() -> Self {
        let delay = Duration::ZERO..Duration::ZERO;
        Self {
            delay,
            bytes_per_second: None,
            chunk_bytes: 64 << 10,
            flips: 0,
            duplicates: 0,
            drops: 0,
            swaps: 0,
            cut_after: None,
        }
    }
}
