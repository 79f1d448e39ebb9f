//! The handshake: each side sends an opening, then both run the Noise pattern `NNpsk0` with the
//! shared key.
//!
//! ```text
//! 0        4         6       7      8
//! | "BRGD" | version | flags | side |        an opening, from each side
//! ```
//!
//! The connecting side sends its opening and the first Noise message, the listening side its
//! opening and the second one, and the connecting side a confirmation: an empty transport message.
//! Noise keeps the promises: each side proves that it has the key, over fresh Diffie-Hellman keys
//! of both; a replayed recording fails at the confirmation; the key is never sent, and a key that
//! leaks later does not decrypt what was recorded before. The prologue has the version, the flags
//! and what binds the handshake to the connection below it (32 bytes: the exporter of TLS, else
//! zeros). Without a key (TLS with certificates of both sides) the messages are the same and made
//! with a key of zeros.
//!
//! A peer without the key gets the listener's opening and no more. With the first message a fake
//! listener on that port could try keys offline, so keys are generated, with 256 bits (`key`).
//!
//! `docs/wire-protocol.md` has it byte by byte. When it changes: raise [`VERSION`], and change that
//! chapter.

use std::io;
use std::time::Duration;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::handshake_error::HandshakeError;
use super::key::{KEY_BYTES, Key};
use super::opening::{
    Binding, FLAG_KEY, FLAG_NAME, MAGIC, OPENING_BYTES, Side, VERSION, flags, opening,
};
use super::record::TAG_BYTES;

/// Both sides give up a handshake after this time, however far it came by then.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// X25519 and AES-GCM, for which processors have instructions.
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// An X25519 key and the tag of an empty payload.
const MESSAGE_BYTES: usize = 32 + TAG_BYTES;
/// The handshake of the side that connects.
pub(super) async fn connecting<S>(
    stream: &mut S,
    key: Option<&Key>,
    binding: &Binding,
) -> Result<TransportState, HandshakeError>
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
) -> Result<TransportState, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = receive_opening(stream, Side::Connects).await?;
    // Also to a side of another version, which learns our version from it.
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
        .map_err(|error| HandshakeError::reading(error, true))?;
    // The sender of a recorded first message does not have its fresh key and fails here.
    session
        .read_message(&confirmation, &mut [])
        .map_err(|_| HandshakeError::Proof)?;
    Ok(session)
}

/// Informs a peer whose certificate is valid that none of its names is allowed.
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
) -> Result<HandshakeState, HandshakeError> {
    let prologue = [&MAGIC[..], &VERSION.to_le_bytes(), &[flags(key)], binding].concat();
    let pattern = PATTERN.parse()?;
    Ok(build(
        Builder::new(pattern)
            .prologue(&prologue)?
            .psk(0, key.unwrap_or(&[0; KEY_BYTES]))?,
    )?)
}

fn check(theirs: [u8; OPENING_BYTES], key: Option<&Key>) -> Result<(), HandshakeError> {
    let [.., v0, v1, flags, _] = theirs;
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(HandshakeError::Version(version));
    }
    if flags & FLAG_NAME != 0 {
        return Err(HandshakeError::Name);
    }
    let theirs = flags & FLAG_KEY != 0;
    if theirs == key.is_some() {
        Ok(())
    } else {
        Err(HandshakeError::OneKey { theirs })
    }
}

async fn receive_opening<S: AsyncRead + Unpin>(
    stream: &mut S,
    side: Side,
) -> Result<[u8; OPENING_BYTES], HandshakeError> {
    let mut opening = [0; OPENING_BYTES];
    // Other protocols often begin with a few bytes and wait for an answer.
    stream
        .read_exact(&mut opening)
        .await
        .map_err(|error| HandshakeError::reading(error, false))?;
    if opening[..4] != MAGIC || opening[7] != side as u8 {
        return Err(HandshakeError::UnknownProtocol(opening));
    }
    Ok(opening)
}

/// Reads the peer's message of the pattern.
async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<(), HandshakeError> {
    let mut message = [0; MESSAGE_BYTES];
    stream
        .read_exact(&mut message)
        .await
        .map_err(|error| HandshakeError::reading(error, true))?;
    noise
        .read_message(&message, &mut [])
        .map_err(|_| HandshakeError::Proof)?;
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Both ends of a session, the connecting side first. The same number always gives the same
/// session, so that a test can change what was written and read it.
#[cfg(any(test, fuzzing))]
pub(super) fn sessions(number: u8) -> (TransportState, TransportState) {
    let handshake = || {
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
        Ok::<_, HandshakeError>((ours.into_transport_mode()?, theirs.into_transport_mode()?))
    };
    handshake().expect("both sides have the key")
}

#[cfg(test)]
mod tests;
