//! A proxy between two sockets that delays, starves, cuts and garbles what goes through it.
//!
//! One thread owns all sockets and looks at the orders between two polls; an order has been carried
//! out when its method returns. Everything random comes from the seed and the number of the
//! connection. Dropping the proxy closes all connections and ends the thread.

mod faults;
mod orders;
mod pump;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

pub use self::faults::{BOTH, Cut, Faults, Target, Way};
use self::orders::{Orders, Shared};

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

#[cfg(test)]
mod tests;
