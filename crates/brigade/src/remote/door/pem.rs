//! Certificates and keys, from files or from memory.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// No file of certificates or keys is that long; one that is was named by mistake.
const BYTES_MAX: usize = 1 << 20;

/// Certificates or a private key in the PEM format. Its `Debug` and `Display` name the file, and never what is in it.
#[derive(Clone)]
pub struct Pem(Source);

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Text(Arc<[u8]>),
}

impl Pem {
    /// In a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// In memory.
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self(Source::Text(text.as_ref().into()))
    }

    #[cfg_attr(not(feature = "remote-tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn read(&self) -> Result<Arc<[u8]>, Error> {
        match &self.0 {
            Source::Text(text) => Ok(Arc::clone(text)),
            Source::File(path) => read(path, false).map(Into::into),
        }
    }

    #[cfg_attr(not(feature = "remote-tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn read_secret(&self) -> Result<Arc<[u8]>, Error> {
        match &self.0 {
            Source::Text(text) => Ok(Arc::clone(text)),
            Source::File(path) => read(path, true).map(Into::into),
        }
    }
}

/// Reads a file that not everybody may read.
pub(super) fn read_secret_file(path: &Path) -> Result<Vec<u8>, Error> {
    read(path, true)
}

fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, Error> {
    let what = format!("read {}", path.display());
    let os = |error| Error::os(&*what, error);
    let file = File::open(path).map_err(os)?;
    // Of the open file: the name may lead to another one by now.
    let mode = file.metadata().map_err(os)?.mode();
    if is_secret && mode & 0o007 != 0 {
        return Err(Error::new(ErrorKind::BadOption, format!("{what}: everybody may read this secret; chmod 600")));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(os)?;
    if text.len() > BYTES_MAX {
        return Err(Error::new(ErrorKind::BadOption, format!("{what}: it is longer than 1 MiB, so it is something else")));
    }
    Ok(text)
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File(path) => path.display().fmt(f),
            Source::Text(_) => f.write_str("the given text"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
