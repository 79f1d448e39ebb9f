//! The handshake: both sides say an opening, then run the Noise pattern `NNpsk0` over the shared
//! key.
//!
//! ```text
//! 0        4         6       7      8
//! | "BRGD" | version | flags | side |        an opening, from each side
//! ```
//!
//! The side that connects says its opening and the first Noise message, the side that listens its
//! opening and the second, the side that connects a confirmation: an empty transport message. Noise
//! gives what is promised: each side proves that it has the key, over fresh Diffie-Hellman keys of
//! both; a recording proves nothing, which the confirmation shows; the key is never sent, and a key
//! that is lost later does not open what was recorded before. The prologue has the version, the
//! flags and what binds the handshake to the connection below it (32 bytes: the exporter of TLS,
//! else zeros). Without a key (TLS with certificates of both sides) the messages are the same and
//! made with a key of zeros.
//!
//! A peer without the key gets the listener's opening and no more. The first message would let an
//! impostor on the listener's port try keys offline, so keys are generated, with 256 bits
//! (`credentials`).
//!
//! `docs/wire-protocol.md` has it byte by byte. When it changes: raise [`VERSION`], and change that
//! chapter.

use std::io;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::key::KEY_BYTES;
use super::record::TAG_BYTES;
use super::refusals::Reason;
use super::tls;
use crate::error::{Error, ErrorKind};

/// Version of the door. Sides of another version refuse each other.
pub(super) const VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"BRGD";
/// The side proves a key. Both must, or neither.
const FLAG_KEY: u8 = 1;
/// The listener does not let in the names of the peer's certificate.
const FLAG_NAME: u8 = 2;
const OPENING_BYTES: usize = 8;
/// X25519 and AES-GCM, since processors have instructions for it.
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// An X25519 key and the tag of an empty payload.
const MESSAGE_BYTES: usize = 32 + TAG_BYTES;
/// What binds the handshake to the connection below it.
pub(super) type Binding = [u8; 32];
/// A shared key.
pub(super) type Key = [u8; KEY_BYTES];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Connects = 0,
    Listens = 1,
}

/// Why a handshake did not come to its end.
#[derive(Debug)]
pub(super) enum Gone {
    /// What came is no opening. Its first bytes.
    UnknownProtocol([u8; OPENING_BYTES]),
    Version(u16),
    /// One side proves a key and the other does not. Whether the peer does.
    OneKey {
        theirs: bool,
    },
    /// The listener does not allow the names of this side's certificate.
    Name,
    /// The peer's proof does not hold.
    Proof,
    /// The peer ended the connection before it said its opening, or after.
    Closed {
        after_opening: bool,
    },
    Broken(io::Error),
    /// This side cannot take part.
    Unable(snow::Error),
}

/// The handshake of the side that connects.
pub(super) async fn connecting<S>(
    stream: &mut S,
    key: Option<&Key>,
    binding: &Binding,
) -> Result<TransportState, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut noise = builder(key, binding, |builder| builder.build_initiator())?;
    let mut message = [0; MESSAGE_BYTES];
    noise.write_message(&[], &mut message)?;
    send(
        stream,
        &[&opening(Side::Connects, key)[..], &message].concat(),
    )
    .await?;
    check(receive_opening(stream, Side::Listens).await?, key)?;
    receive(stream, &mut noise).await?;
    let mut session = noise.into_transport_mode()?;
    let mut confirmation = [0; TAG_BYTES];
    session.write_message(&[], &mut confirmation)?;
    send(stream, &confirmation).await?;
    Ok(session)
}

/// The handshake of the side that listens.
pub(super) async fn listening<S>(
    stream: &mut S,
    key: Option<&Key>,
    binding: &Binding,
) -> Result<TransportState, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = receive_opening(stream, Side::Connects).await?;
    // Also to a side of another version, which learns from it what this one speaks.
    send(stream, &opening(Side::Listens, key)).await?;
    check(theirs, key)?;
    let mut noise = builder(key, binding, |builder| builder.build_responder())?;
    receive(stream, &mut noise).await?;
    let mut message = [0; MESSAGE_BYTES];
    noise.write_message(&[], &mut message)?;
    send(stream, &message).await?;
    let mut session = noise.into_transport_mode()?;
    let mut confirmation = [0; TAG_BYTES];
    stream
        .read_exact(&mut confirmation)
        .await
        .map_err(|error| Gone::reading(error, true))?;
    // Of a recorded first message its sender does not have the fresh key, so it ends here.
    session
        .read_message(&confirmation, &mut [])
        .map_err(|_| Gone::Proof)?;
    Ok(session)
}

/// Says to a peer whose certificate holds that none of its names is allowed.
pub(super) async fn turn_away<S>(stream: &mut S, key: Option<&Key>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut opening = opening(Side::Listens, key);
    opening[6] |= FLAG_NAME;
    send(stream, &opening).await?;
    stream.shutdown().await
}

fn builder(
    key: Option<&Key>,
    binding: &Binding,
    build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, Gone> {
    let prologue = [&MAGIC[..], &VERSION.to_le_bytes(), &[flags(key)], binding].concat();
    let pattern = PATTERN.parse()?;
    Ok(build(
        Builder::new(pattern)
            .prologue(&prologue)?
            .psk(0, key.unwrap_or(&[0; KEY_BYTES]))?,
    )?)
}

fn flags(key: Option<&Key>) -> u8 {
    if key.is_some() { FLAG_KEY } else { 0 }
}

fn opening(side: Side, key: Option<&Key>) -> [u8; OPENING_BYTES] {
    let ([m0, m1, m2, m3], [v0, v1]) = (MAGIC, VERSION.to_le_bytes());
    [m0, m1, m2, m3, v0, v1, flags(key), side as u8]
}

fn check(theirs: [u8; OPENING_BYTES], key: Option<&Key>) -> Result<(), Gone> {
    let [.., v0, v1, flags, _] = theirs;
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(Gone::Version(version));
    }
    if flags & FLAG_NAME != 0 {
        return Err(Gone::Name);
    }
    let theirs = flags & FLAG_KEY != 0;
    if theirs == key.is_some() {
        Ok(())
    } else {
        Err(Gone::OneKey { theirs })
    }
}

async fn receive_opening<S: AsyncRead + Unpin>(
    stream: &mut S,
    side: Side,
) -> Result<[u8; OPENING_BYTES], Gone> {
    let mut opening = [0; OPENING_BYTES];
    // Strangers often say little and then wait for an answer.
    stream
        .read_exact(&mut opening)
        .await
        .map_err(|error| Gone::reading(error, false))?;
    if opening[..4] != MAGIC || opening[7] != side as u8 {
        return Err(Gone::UnknownProtocol(opening));
    }
    Ok(opening)
}

/// Reads the peer's message of the pattern.
async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<(), Gone> {
    let mut message = [0; MESSAGE_BYTES];
    stream
        .read_exact(&mut message)
        .await
        .map_err(|error| Gone::reading(error, true))?;
    noise
        .read_message(&message, &mut [])
        .map_err(|_| Gone::Proof)?;
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

impl From<snow::Error> for Gone {
    fn from(error: snow::Error) -> Self {
        Self::Unable(error)
    }
}

impl From<io::Error> for Gone {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Gone {
    fn reading(error: io::Error, after_opening: bool) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed { after_opening },
            _ => Self::Broken(error),
        }
    }

    /// How the listener counts it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::UnknownProtocol(_) => Reason::UnknownProtocol,
            Self::Version(_) => Reason::Version,
            Self::Name => Reason::Name,
            Self::OneKey { .. } | Self::Proof => Reason::Key,
            Self::Closed { .. } | Self::Broken(_) | Self::Unable(_) => Reason::Closed,
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
            Self::UnknownProtocol([0x15 | 0x16, 3, ..]) => protocol(format!(
                "read {peer}'s hello: it speaks TLS; write tls:// on both sides, or tcp:// on both"
            )),
            Self::UnknownProtocol(_) => protocol(format!(
                "read {peer}'s hello: what answers there is not Brigade"
            )),
            Self::Version(theirs) => protocol(format!(
                "agree on a version: {peer} speaks version {theirs} of the door and this program \
                    {VERSION}"
            )),
            Self::OneKey { theirs: true } => refused(format!(
                "prove the key: {peer} wants one and {this} have none"
            )),
            Self::OneKey { theirs: false } => refused(format!(
                "prove the key: {peer} has none and {this} have one"
            )),
            Self::Name => refused(format!(
                "join {peer}: it allows none of the names in this side's certificate \
                    (Credentials::allow_names)"
            )),
            Self::Proof => refused(format!("believe {peer}: its key is another one")),
            Self::Closed {
                after_opening: true,
            } => refused(format!(
                "prove the key: {peer} ended the connection; the keys differ"
            )),
            Self::Closed {
                after_opening: false,
            } => {
                let text = format!(
                    "read {peer}'s hello: it ended the connection; it is busy, or wants TLS \
                        (tls://)"
                );
                Error::new(ErrorKind::Unreachable, text)
            }
            Self::Broken(error) => {
                Error::new(ErrorKind::Unreachable, format!("greet {peer}")).with_source(error)
            }
            Self::Unable(error) => Error::new(
                ErrorKind::Unsupported,
                format!("encrypt the connection to {peer}"),
            )
            .with_source(error),
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

/// Both ends of a session, of the side that connects first: another one for each number and always
/// the same one for a number, so that what was written can be changed and read again.
#[cfg(any(test, fuzzing))]
pub(super) fn sessions(number: u8) -> (TransportState, TransportState) {
    let shaken = || {
        let (key, binding) = ([7; KEY_BYTES], [0; 32]);
        let (a, b) = ([number; 32], [number.wrapping_add(100); 32]);
        let mut ours = builder(Some(&key), &binding, |builder| {
            builder
                .fixed_ephemeral_key_for_testing_only(&a)
                .build_initiator()
        })?;
        let mut theirs = builder(Some(&key), &binding, |builder| {
            builder
                .fixed_ephemeral_key_for_testing_only(&b)
                .build_responder()
        })?;
        let mut message = [0; MESSAGE_BYTES];
        ours.write_message(&[], &mut message)?;
        theirs.read_message(&message, &mut [])?;
        theirs.write_message(&[], &mut message)?;
        ours.read_message(&message, &mut [])?;
        Ok::<_, Gone>((ours.into_transport_mode()?, theirs.into_transport_mode()?))
    };
    shaken().expect("both sides have the key")
}

#[cfg(test)]
mod tests;
