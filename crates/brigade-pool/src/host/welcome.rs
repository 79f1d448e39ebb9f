//! A pool's answer to the introduction of a host.

use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::outcome::REASON_BYTES_MAX;
use crate::remote::printable;
use crate::wire::Frame;
use crate::wire::remote::{MAGIC, TurnedAway, VERSION, Welcome, check_times, kind};

/// The welcome, if this host can accept its terms.
///
/// # Errors
///
/// `Refused` with the pool's reason or with both versions; `Protocol` for an answer that makes no
/// sense.
pub(super) fn read(frame: &Frame, url: &str) -> Result<Welcome, Error> {
    let Ok(((magic, version, brigade), _)) =
        postcard::take_from_bytes::<([u8; 4], u16, String)>(&frame.body)
    else {
        return Err(Error::new(
            ErrorKind::Protocol,
            "join a pool: the program at the other end is not one",
        ));
    };
    let reason = match frame.kind {
        kind::TURNED_AWAY if magic == MAGIC => {
            let turned_away = Codec::Postcard.decode::<TurnedAway>(&frame.body);
            turned_away
                .map(|turned_away| printable(&turned_away.reason, REASON_BYTES_MAX))
                .ok()
        }
        kind::WELCOME if magic == MAGIC && version == VERSION => {
            let welcome: Welcome = Codec::Postcard.decode(&frame.body)?;
            return match check_times(welcome.beat, welcome.keep) {
                Ok(()) => Ok(welcome),
                Err(what) => Err(Error::new(
                    ErrorKind::Protocol,
                    format!("join a pool that would {what}"),
                )),
            };
        }
        _ => None,
    };
    let (own, brigade) = (
        env!("CARGO_PKG_VERSION"),
        printable(&brigade, REASON_BYTES_MAX),
    );
    let text = reason.unwrap_or_else(|| {
        format!(
            "it speaks version {version} of the protocol (brigade \
            {brigade}), this host {VERSION} (brigade {own})"
        )
    });
    Err(Error::new(
        ErrorKind::Refused,
        format!("join the pool at {}: {text}", url),
    ))
}

/// Why a host could not join.
pub(super) struct NotJoined {
    pub(super) error: Error,
    /// Trying again is of no use until a person changes something.
    pub(super) is_final: bool,
}

impl NotJoined {
    /// Before the other side has authenticated. Any program may answer at that address, so only a
    /// mistake on this side is final.
    pub(super) fn before_proof(error: Error) -> Self {
        let is_final = matches!(error.kind(), ErrorKind::BadOption | ErrorKind::Unsupported);
        Self { error, is_final }
    }

    /// The answer of a pool that has authenticated.
    pub(super) fn by_the_pool(error: Error) -> Self {
        let is_final = matches!(
            error.kind(),
            ErrorKind::Refused
                | ErrorKind::Protocol
                | ErrorKind::BadOption
                | ErrorKind::Unsupported
        );
        Self { error, is_final }
    }
}
