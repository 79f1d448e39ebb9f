//! The handshake: who connects says hello, who listens says hello, then each proves that it has the key, who connects first.
//!
//! ```text
//! 0        4         6       7      8                 40
//! | "BRGD" | version | flags | side | number (random) |     hello, from each side
//! ```
//!
//! then 32 bytes from each side: HMAC-SHA-256 with the shared key over a label that names the side, what binds the connection (32 bytes: the
//! exporter of TLS, else zeros), and both hellos, of the side that connects first. Since both random numbers are in it a recording proves nothing;
//! since the label is in it a proof sent back proves nothing. The keys of the records are the same computation with labels of their own.
//! Without a key (TLS with certificates of both sides) the messages are the same and made with a key of no bytes.
//!
//! Who does not have the key learns the listener's hello and no more; above all no proof on which guesses of the key could be tried.
//!
//! `docs/wire-protocol.md` has it byte by byte. When it changes: raise [`VERSION`], and change that chapter and the vectors in the tests.

use std::io;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::refusals::Reason;
use super::tls;
use crate::error::{Error, ErrorKind};

/// Version of the door. Sides of another version refuse each other.
pub(super) const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"BRGD";
/// The side proves a key. Both must, or neither.
const FLAG_KEY: u8 = 1;
const HELLO_BYTES: usize = 40;
/// As much of a hello as tells a stranger.
const OPENING_BYTES: usize = 8;
const PROOF_BYTES: usize = 32;
/// What binds the handshake to the connection below it.
pub(super) type Binding = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Connects = 0,
    Listens = 1,
}

/// The keys of the records in each direction.
pub(super) struct Keys {
    pub(super) send: [u8; 32],
    pub(super) receive: [u8; 32],
}

/// Why a handshake did not come to its end.
#[derive(Debug)]
pub(super) enum Gone {
    /// What came is no hello. Its first bytes.
    Stranger([u8; OPENING_BYTES]),
    Version(u16),
    /// One side proves a key and the other does not. Whether the peer does.
    OneKey {
        theirs: bool,
    },
    /// The peer's proof does not hold.
    Proof,
    /// The peer ended the connection before it said hello, or after.
    Closed {
        after_hello: bool,
    },
    Broken(io::Error),
}

struct Hello([u8; HELLO_BYTES]);

/// What is said of the peer in the hello, once it is known to be one.
fn ours(side: Side, key: Option<&[u8]>) -> io::Result<Hello> {
    let mut hello = [0; HELLO_BYTES];
    hello[..4].copy_from_slice(&MAGIC);
    hello[4..6].copy_from_slice(&VERSION.to_le_bytes());
    hello[6] = if key.is_some() { FLAG_KEY } else { 0 };
    hello[7] = side as u8;
    let mut filled = OPENING_BYTES;
    while filled < HELLO_BYTES {
        filled += getrandom(&mut hello[filled..], GetRandomFlags::empty())?;
    }
    Ok(Hello(hello))
}

/// The handshake of the side that connects.
pub(super) async fn connecting<S>(stream: &mut S, key: Option<&[u8]>, binding: &Binding) -> Result<Keys, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mine = ours(Side::Connects, key)?;
    send(stream, &mine.0).await?;
    let theirs = receive_hello(stream, Side::Listens).await?;
    theirs.check(key)?;
    let talk = Talk { key: key.unwrap_or_default(), binding, hellos: [&mine, &theirs] };
    send(stream, &talk.say(PROOF_OF_CONNECTING)).await?;
    talk.check_proof(stream, PROOF_OF_LISTENING).await?;
    Ok(Keys { send: talk.say(RECORDS_OF_CONNECTING), receive: talk.say(RECORDS_OF_LISTENING) })
}

/// The handshake of the side that listens.
pub(super) async fn listening<S>(stream: &mut S, key: Option<&[u8]>, binding: &Binding) -> Result<Keys, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = receive_hello(stream, Side::Connects).await?;
    let mine = ours(Side::Listens, key)?;
    // Also to a side of another version, which learns from it what this one speaks.
    send(stream, &mine.0).await?;
    theirs.check(key)?;
    let talk = Talk { key: key.unwrap_or_default(), binding, hellos: [&theirs, &mine] };
    talk.check_proof(stream, PROOF_OF_CONNECTING).await?;
    send(stream, &talk.say(PROOF_OF_LISTENING)).await?;
    Ok(Keys { send: talk.say(RECORDS_OF_LISTENING), receive: talk.say(RECORDS_OF_CONNECTING) })
}

const PROOF_OF_CONNECTING: &str = "brigade door 1: the side that connects has the key";
const PROOF_OF_LISTENING: &str = "brigade door 1: the side that listens has the key";
const RECORDS_OF_CONNECTING: &str = "brigade door 1: records of the side that connects";
const RECORDS_OF_LISTENING: &str = "brigade door 1: records of the side that listens";

/// What both sides know once both have said hello.
struct Talk<'a> {
    key: &'a [u8],
    binding: &'a Binding,
    /// Of the side that connects first.
    hellos: [&'a Hello; 2],
}

impl Talk<'_> {
    fn mac(&self, label: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key).expect("HMAC takes keys of any length");
        mac.update(label.as_bytes());
        mac.update(self.binding);
        mac.update(&self.hellos[0].0);
        mac.update(&self.hellos[1].0);
        mac
    }

    fn say(&self, label: &str) -> [u8; PROOF_BYTES] {
        self.mac(label).finalize().into_bytes().into()
    }

    async fn check_proof<S: AsyncRead + Unpin>(&self, stream: &mut S, label: &str) -> Result<(), Gone> {
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await.map_err(|error| Gone::reading(error, true))?;
        // In constant time.
        self.mac(label).verify_slice(&proof).map_err(|_| Gone::Proof)
    }
}

impl Hello {
    fn check(&self, key: Option<&[u8]>) -> Result<(), Gone> {
        let [_, _, _, _, v0, v1, flags, ..] = self.0;
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(Gone::Version(version));
        }
        let theirs = flags & FLAG_KEY != 0;
        if theirs == key.is_some() { Ok(()) } else { Err(Gone::OneKey { theirs }) }
    }
}

async fn receive_hello<S: AsyncRead + Unpin>(stream: &mut S, side: Side) -> Result<Hello, Gone> {
    let mut hello = [0; HELLO_BYTES];
    let (opening, rest) = hello.split_at_mut(OPENING_BYTES);
    // Strangers often say little and then wait for an answer.
    stream.read_exact(opening).await.map_err(|error| Gone::reading(error, false))?;
    if opening[..4] != MAGIC || opening[7] != side as u8 {
        let [a, b, c, d, e, f, g, h, ..] = hello;
        return Err(Gone::Stranger([a, b, c, d, e, f, g, h]));
    }
    stream.read_exact(rest).await.map_err(|error| Gone::reading(error, false))?;
    Ok(Hello(hello))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Gone {
    fn reading(error: io::Error, after_hello: bool) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed { after_hello },
            _ => Self::Broken(error),
        }
    }

    /// How the listener counts it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Stranger(_) => Reason::Stranger,
            Self::Version(_) => Reason::Version,
            Self::OneKey { .. } | Self::Proof => Reason::Key,
            Self::Closed { .. } | Self::Broken(_) => Reason::Closed,
        }
    }

    /// What it means to a person on this side.
    pub(super) fn explain(self, side: Side) -> Error {
        let (peer, this) = match side {
            Side::Connects => ("the listener", "these credentials"),
            Side::Listens => ("the peer", "the listener's credentials"),
        };
        match self {
            // The start of a TLS alert, or of a TLS handshake.
            Self::Stranger([0x15 | 0x16, 3, ..]) => {
                protocol(format!("read {peer}'s hello: it speaks TLS; write tls:// on both sides, or tcp:// on both"))
            }
            Self::Stranger(_) => protocol(format!("read {peer}'s hello: what answers there is not Brigade")),
            Self::Version(theirs) => {
                protocol(format!("agree on a version: {peer} speaks version {theirs} of the door and this program {VERSION}"))
            }
            Self::OneKey { theirs: true } => refused(format!("prove the key: {peer} wants one and {this} have none")),
            Self::OneKey { theirs: false } => refused(format!("prove the key: {peer} has none and {this} have one")),
            Self::Proof => refused(format!("believe {peer}: its key is another one")),
            Self::Closed { after_hello: true } => refused(format!("prove the key: {peer} ended the connection; the keys differ")),
            Self::Closed { after_hello: false } => {
                let text = format!("read {peer}'s hello: it ended the connection; it is busy, or wants TLS (tls://)");
                Error::new(ErrorKind::Unreachable, text)
            }
            Self::Broken(error) => Error::new(ErrorKind::Unreachable, format!("greet {peer}")).with_source(error),
        }
    }
}

impl Gone {
    /// The same where TLS is below and may be what failed.
    pub(super) fn explain_over_tls(self, side: Side) -> Error {
        match self {
            Self::Broken(error) => tls::explain(error, side),
            other => other.explain(side),
        }
    }
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::Refused, text)
}

fn protocol(text: String) -> Error {
    Error::new(ErrorKind::Protocol, text)
}

#[cfg(test)]
mod tests;
