//! A proxy between two sockets that delays, starves, cuts and garbles what goes through it.
//!
//! One thread owns all sockets and looks at the orders between two polls; an order has been carried
//! out when its method returns. Everything random comes from the seed and the number of the
//! connection. Dropping the proxy closes all connections and ends the thread.

mod pump;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
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

/// What went through, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open.
    pub open: usize,
    /// Connections that were cut.
    pub cut: u64,
    /// Chunks that were flipped, duplicated, dropped or swapped.
    pub garbled: u64,
    /// Bytes that went there and back.
    pub bytes: [u64; 2],
    /// Bytes that [`Proxy::hold`] keeps.
    pub held: usize,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    heeded: Condvar,
    accepted: AtomicU64,
    open: AtomicUsize,
    cut: AtomicU64,
    garbled: AtomicU64,
    bytes: [AtomicU64; 2],
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Orders {
    faults: [Faults; 2],
    frozen: [bool; 2],
    held: Option<u64>,
    closed: bool,
    target: Option<Target>,
    cut: Option<Cut>,
    end: bool,
    /// How many orders were given, and carried out.
    given: u64,
    done: u64,
}

impl Proxy {
    /// Starts one on a port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    #[expect(clippy::disallowed_methods, reason = "the kit starts its own threads")]
    pub fn start(target: Target, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        shared.lock().target = Some(target);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || pump::run(&listener, &woken, &theirs, seed));
        Ok(Self {
            address,
            shared,
            wake,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens to chunks from now on, in all connections.
    pub fn set(&self, ways: impl IntoIterator<Item = Way>, faults: &Faults) {
        self.order(|orders| {
            ways.into_iter()
                .for_each(|way| orders.faults[way as usize] = faults.clone())
        });
    }

    /// Forwards no more and closes nothing, until [`thaw`](Self::thaw): connections are half open.
    /// New ones are accepted and as silent.
    pub fn freeze(&self, ways: impl IntoIterator<Item = Way>) {
        self.order(|orders| {
            ways.into_iter()
                .for_each(|way| orders.frozen[way as usize] = true)
        });
    }

    /// Forwards what was held and goes on.
    pub fn thaw(&self) {
        self.order(|orders| orders.frozen = [false; 2]);
    }

    /// Reads what one connection sends there and forwards none of it, for as long as it is open.
    /// The number of the first one that was accepted is 0.
    pub fn hold(&self, number: u64) {
        self.order(|orders| orders.held = Some(number));
    }

    /// Cuts all open connections.
    pub fn cut(&self, how: Cut) {
        self.order(|orders| orders.cut = Some(how));
    }

    /// Resets new connections at once, or no longer. Open ones stay.
    pub fn close_to_new(&self, closed: bool) {
        self.order(|orders| orders.closed = closed);
    }

    /// Where new connections go: a listener that started again has another port.
    pub fn lead_to(&self, target: Target) {
        self.order(|orders| orders.target = Some(target));
    }

    /// What went through, so far.
    pub fn traffic(&self) -> Traffic {
        let Shared {
            accepted,
            open,
            cut,
            garbled,
            bytes,
            held,
            ..
        } = &*self.shared;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let bytes = [read(&bytes[0]), read(&bytes[1])];
        Traffic {
            accepted: read(accepted),
            open: open.load(Ordering::Relaxed),
            cut: read(cut),
            garbled: read(garbled),
            bytes,
            held: held.load(Ordering::Relaxed),
        }
    }

    /// Gives an order and waits until it has been carried out.
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.shared.lock();
        change(&mut orders);
        orders.given += 1;
        let given = orders.given;
        // A wake that does not fit finds others that were not seen yet.
        (&self.wake).write_all(b"!").ok();
        while orders.done < given {
            orders = self
                .shared
                .heeded
                .wait(orders)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.order(|orders| orders.end = true);
        if let Some(thread) = self.thread.take() {
            // A panic of its thread was printed.
            thread.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
