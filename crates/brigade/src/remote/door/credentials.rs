//! What a side proves itself with.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::place::Place;
use crate::error::{Error, ErrorKind};

/// A shorter key could be found by trying.
const KEY_BYTES_MIN: usize = 16;
/// No key is that long; a file that is was named by mistake.
const KEY_BYTES_MAX: usize = 4 << 10;

/// What a side of a connection between hosts proves itself with: a shared key, certificates, or both.
///
/// Both sides need the same kinds. Nothing in it shows in `Debug`, logs or errors.
///
/// ```
/// use brigade::remote::Credentials;
///
/// let credentials = Credentials::key("4ePsiXy0uZGRaTgnVYbnFw")?;
/// assert!(!format!("{credentials:?}").contains("4eP"));
/// # Ok::<(), brigade::Error>(())
/// ```
#[derive(Clone)]
pub struct Credentials {
    secret: Option<Arc<[u8]>>,
    is_insecure: bool,
}

impl Credentials {
    /// A key that both sides have: at least 16 bytes, of a generator of passwords. It is never sent: each side proves that it has it.
    ///
    /// # Errors
    ///
    /// `BadOption` if it is shorter.
    pub fn key(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self { secret: None, is_insecure: false }.with_key(secret)
    }

    /// A key from a file that only its owner may read. White space around it does not count.
    ///
    /// # Errors
    ///
    /// `BadOption` if others may read the file, if the key is shorter than 16 bytes or the file longer than 4 KiB; `Os` if it cannot be read.
    pub fn key_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let what = format!("read the key file {}", path.display());
        let file = File::open(path).map_err(|error| Error::os(&*what, error))?;
        // Of the open file: the name may lead to another one by now.
        let mode = file.metadata().map_err(|error| Error::os(&*what, error))?.mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(ErrorKind::BadOption, format!("{what}: others may read it; chmod 600")));
        }
        let mut text = Vec::new();
        let read = file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut text);
        read.map_err(|error| Error::os(&*what, error))?;
        if text.len() > KEY_BYTES_MAX {
            return Err(Error::new(ErrorKind::BadOption, format!("{what}: it is no key, being longer than 4 KiB")));
        }
        Self::key(text.trim_ascii())
    }

    /// Adds a key, see [`key`](Self::key), to certificates: the peer must have both.
    ///
    /// # Errors
    ///
    /// `BadOption` if it is shorter than 16 bytes.
    pub fn with_key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        let secret = secret.as_ref();
        if secret.len() < KEY_BYTES_MIN {
            return Err(Error::new(ErrorKind::BadOption, "use a key of fewer than 16 bytes: it could be found by trying"));
        }
        self.secret = Some(secret.into());
        Ok(self)
    }

    /// Allows another host without TLS: what is said can be read on the way, though not changed, and nobody gets in without the key.
    /// `?insecure` at the end of the URL is the same.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.is_insecure = true;
        self
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    pub(super) fn secret(&self) -> Option<&[u8]> {
        self.secret.as_deref()
    }

    /// Whether they are enough for this place.
    pub(super) fn check(&self, place: &Place) -> Result<(), Error> {
        if !place.is_tls() && self.secret.is_none() {
            return Err(Error::new(ErrorKind::BadOption, "use certificates without TLS: write tls://, or give a key"));
        }
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| format_args!("***"));
        f.debug_struct("Credentials").field("key", &secret).field("insecure", &self.is_insecure).finish_non_exhaustive()
    }
}
