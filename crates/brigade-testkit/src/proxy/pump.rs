//! The proxy's one thread.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::faults::{BOTH, Cut, Faults, Target, Way};
use super::orders::{Orders, Shared};
use crate::random::Random;

/// Nothing more is read while so much waits to be forwarded.
const HELD_BYTES_MAX: usize = 256 << 10;
/// After a FIN, what still comes is thrown away for so long: closing a socket with unread bytes
/// would send RST.
const LINGER: Duration = Duration::from_secs(2);
const CONNECT_BOUND: Duration = Duration::from_secs(5);

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct Connection {
    /// From 0, in the order in which they were accepted.
    number: u64,
    /// Who connected, and the target.
    sockets: [Socket; 2],
    pipes: [Pipe; 2],
    random: Random,
    /// It was finished, and what comes until then is thrown away.
    draining: Option<Instant>,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Chunks, and when they go on.
    held: VecDeque<(Instant, Vec<u8>)>,
    held_bytes: usize,
    /// Its source has ended.
    ended: bool,
    /// Its end was forwarded.
    shut: bool,
    passed: u64,
    /// Not before, for the sake of the rate.
    next: Option<Instant>,
}

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    Open,
    Over,
    Cut(Cut),
}

/// What holds for all connections in this turn.
struct Rules {
    faults: [Faults; 2],
    frozen: [bool; 2],
    held: Option<u64>,
}

pub(super) fn run(listener: &TcpListener, woken: &UnixStream, shared: &Shared, seed: u64) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut orders = shared.lock();
        if let Some(how) = orders.cut.take() {
            connections.retain_mut(|connection| {
                connection.draining.is_some() || connection.stays(ConnectionState::Cut(how), shared)
            });
        }
        let rules = Rules {
            faults: orders.faults.clone(),
            frozen: orders.frozen,
            held: orders.held,
        };
        let is_over = orders.end;
        accept_all(listener, &orders, shared, seed, &mut connections);
        if is_over {
            connections.clear();
        }
        shared.open.store(
            connections
                .iter()
                .filter(|connection| connection.draining.is_none())
                .count(),
            Ordering::Relaxed,
        );
        orders.done = orders.given;
        drop(orders);
        shared.heeded.notify_all();
        if is_over {
            return;
        }
        wait(listener, woken, &connections, &rules);
        while matches!((&*woken).read(&mut [0; 64]), Ok(1..)) {}
        connections.retain_mut(|connection| {
            let state = connection.turn(&rules, shared);
            connection.stays(state, shared)
        });
    }
}

fn accept_all(
    listener: &TcpListener,
    orders: &Orders,
    shared: &Shared,
    seed: u64,
    connections: &mut Vec<Connection>,
) {
    while let Ok((stream, _)) = listener.accept() {
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let opened = if orders.closed {
            None
        } else {
            orders
                .target
                .as_ref()
                .and_then(|target| connect(target).ok())
        };
        let here = Socket::Tcp(stream);
        match opened {
            Some(there) if here.is_ready() && there.is_ready() => {
                let random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                connections.push(Connection {
                    number,
                    sockets: [here, there],
                    pipes: Default::default(),
                    random,
                    draining: None,
                });
            }
            _ => here.reset(),
        }
    }
}

fn connect(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Tcp(address) => TcpStream::connect_timeout(address, CONNECT_BOUND).map(Socket::Tcp),
        Target::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
    }
}

/// Waits for a socket that has something, for a chunk whose time has come, or for an order.
fn wait(listener: &TcpListener, woken: &UnixStream, connections: &[Connection], rules: &Rules) {
    let now = Instant::now();
    let mut until = now + Duration::from_secs(1);
    let mut descriptors = vec![
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(woken, PollFlags::IN),
    ];
    for connection in connections {
        for (side, socket) in connection.sockets.iter().enumerate() {
            let (from, to) = (&connection.pipes[side], &connection.pipes[1 - side]);
            let mut flags = PollFlags::empty();
            let is_frozen = rules.frozen[side];
            if !from.ended
                && (connection.draining.is_some()
                    || (from.held_bytes < HELD_BYTES_MAX && !is_frozen))
            {
                flags |= PollFlags::IN;
            }
            // What goes to this socket comes by the other pipe.
            let is_stopped = rules.frozen[1 - side] || side == 1 && connection.is_held(rules);
            match to.due() {
                Some(due) if due <= now && !is_stopped => flags |= PollFlags::OUT,
                Some(due) if !is_stopped => until = until.min(due),
                _ => {}
            }
            if !flags.is_empty() {
                descriptors.push(PollFd::from_borrowed_fd(socket.descriptor(), flags));
            }
        }
        until = connection.draining.map_or(until, |end| until.min(end));
    }
    let left = until.saturating_duration_since(now) + Duration::from_micros(100);
    let left = Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    };
    // Interrupted or not, the next turn looks at everything.
    poll(&mut descriptors, Some(&left)).ok();
}

impl Connection {
    fn is_held(&self, rules: &Rules) -> bool {
        rules.held == Some(self.number)
    }

    /// Moves what can be moved.
    fn turn(&mut self, rules: &Rules, shared: &Shared) -> ConnectionState {
        if let Some(end) = self.draining {
            return self.drain(end);
        }
        let is_held = self.is_held(rules);
        for way in BOTH {
            let index = way as usize;
            if rules.frozen[index] {
                continue;
            }
            let (faults, pipe) = (&rules.faults[index], &mut self.pipes[index]);
            let [here, there] = &mut self.sockets;
            let (from, to) = if way == Way::There {
                (here, there)
            } else {
                (there, here)
            };
            let read = pipe.read(from, faults, &mut self.random, shared);
            let moved = if is_held && way == Way::There {
                shared.held.store(pipe.held_bytes, Ordering::Relaxed);
                read.map(|()| None)
            } else {
                read.and_then(|()| pipe.write(to, faults, shared, index))
            };
            match moved {
                Ok(None) => {}
                Ok(Some(cut)) => return ConnectionState::Cut(cut),
                // One side broke it; the other hears of it the same way.
                Err(_) => return ConnectionState::Cut(Cut::Reset),
            }
        }
        if self.pipes.iter().all(|pipe| pipe.shut) {
            ConnectionState::Over
        } else {
            ConnectionState::Open
        }
    }

    /// Carries out what became of it. Whether it is kept.
    fn stays(&mut self, state: ConnectionState, shared: &Shared) -> bool {
        match state {
            ConnectionState::Open => return true,
            ConnectionState::Over => return false,
            ConnectionState::Cut(how) => {
                shared.cut.fetch_add(1, Ordering::Relaxed);
                if how == Cut::Reset {
                    self.sockets.iter().for_each(Socket::reset);
                    return false;
                }
            }
        }
        self.sockets.iter().for_each(Socket::finish);
        self.pipes = Default::default();
        self.draining = Some(Instant::now() + LINGER);
        true
    }

    fn drain(&mut self, end: Instant) -> ConnectionState {
        let mut buffer = [0; 4096];
        for (socket, pipe) in self.sockets.iter_mut().zip(&mut self.pipes) {
            while !pipe.ended {
                match socket.read(&mut buffer) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(0) | Err(_) => pipe.ended = true,
                }
            }
        }
        if self.pipes.iter().all(|pipe| pipe.ended) || Instant::now() >= end {
            ConnectionState::Over
        } else {
            ConnectionState::Open
        }
    }
}

impl Pipe {
    /// When it has something to do at its destination.
    fn due(&self) -> Option<Instant> {
        match self.held.front() {
            Some((due, _)) => Some(self.next.map_or(*due, |next| next.max(*due))),
            None => (self.ended && !self.shut).then(Instant::now),
        }
    }

    fn read(
        &mut self,
        from: &mut Socket,
        faults: &Faults,
        random: &mut Random,
        shared: &Shared,
    ) -> io::Result<()> {
        while !self.ended && self.held_bytes < HELD_BYTES_MAX {
            let mut chunk = vec![0; faults.chunk_bytes.clamp(1, HELD_BYTES_MAX)];
            match from.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    chunk.truncate(count);
                    self.take(chunk, faults, random, shared);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does to a chunk what the faults want.
    fn take(&mut self, mut chunk: Vec<u8>, faults: &Faults, random: &mut Random, shared: &Shared) {
        let mut is_one_of = |count: u32| {
            let is_one = count > 0 && random.within(0..1000) < u64::from(count);
            shared
                .garbled
                .fetch_add(u64::from(is_one), Ordering::Relaxed);
            is_one
        };
        let (flips, doubles, drops) = (
            is_one_of(faults.flips),
            is_one_of(faults.duplicates),
            is_one_of(faults.drops),
        );
        let swaps = chunk.len() > 1 && is_one_of(faults.swaps);
        if drops {
            return;
        }
        if flips {
            let bit = usize::try_from(random.within(0..chunk.len() as u64 * 8)).unwrap_or(0);
            chunk[bit / 8] ^= 1 << (bit % 8);
        }
        if swaps {
            let half = chunk.len() / 2;
            chunk.rotate_left(half);
        }
        let delay = if faults.delay.is_empty() {
            faults.delay.start
        } else {
            random.time(faults.delay.clone())
        };
        let due = self
            .held
            .back()
            .map_or_else(Instant::now, |(due, _)| *due)
            .max(Instant::now() + delay);
        if doubles {
            self.held_bytes += chunk.len();
            self.held.push_back((due, chunk.clone()));
        }
        self.held_bytes += chunk.len();
        self.held.push_back((due, chunk));
    }

    /// Forwards what is due. Returns how the connection is to be cut, if it is.
    fn write(
        &mut self,
        to: &mut Socket,
        faults: &Faults,
        shared: &Shared,
        index: usize,
    ) -> io::Result<Option<Cut>> {
        while self.due().is_some_and(|due| due <= Instant::now()) {
            let Some((_, chunk)) = self.held.front_mut() else {
                to.finish();
                self.shut = true;
                break;
            };
            let left = faults
                .cut_after
                .map_or(u64::MAX, |(bytes, _)| bytes.saturating_sub(self.passed));
            let piece = faults
                .bytes_per_second
                .map_or(chunk.len(), |rate| (rate as usize / 20).max(1));
            let piece = piece
                .min(chunk.len())
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match to.write(&chunk[..piece]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            chunk.drain(..count);
            if chunk.is_empty() {
                self.held.pop_front();
            }
            self.held_bytes -= count;
            self.passed += count as u64;
            shared.bytes[index].fetch_add(count as u64, Ordering::Relaxed);
            if let Some((bytes, how)) = faults.cut_after
                && self.passed >= bytes
            {
                return Ok(Some(how));
            }
            if let Some(rate) = faults.bytes_per_second {
                self.next = Some(
                    Instant::now() + Duration::from_secs_f64(count as f64 / f64::from(rate.max(1))),
                );
            }
        }
        Ok(None)
    }
}

impl Socket {
    fn is_ready(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true))
                .is_ok(),
            Self::Unix(stream) => stream.set_nonblocking(true).is_ok(),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// Closing it will send RST. A Unix socket has none.
    fn reset(&self) {
        if let Self::Tcp(stream) = self {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
        }
    }

    fn finish(&self) {
        // It may be gone.
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .ok();
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
