//! Certificates and keys, from files or from memory.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind};

/// No file of certificates or keys is that long; one that is was named by mistake.
const BYTES_MAX: usize = 1 << 20;

/// Certificates or a private key in the PEM format. Its `Debug` and `Display` name the file, and
/// never what is in it.
#[derive(Clone)]
pub struct Pem(PemSource);

#[derive(Clone)]
enum PemSource {
    File(PathBuf),
    Text(Arc<[u8]>),
}

impl Pem {
    /// In a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(PemSource::File(path.into()))
    }

    /// In memory.
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self(PemSource::Text(text.as_ref().into()))
    }

    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn read(&self) -> Result<Arc<[u8]>, Error> {
        match &self.0 {
            PemSource::Text(text) => Ok(Arc::clone(text)),
            PemSource::File(path) => read(path, false).map(Into::into),
        }
    }

    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn read_secret(&self) -> Result<Arc<[u8]>, Error> {
        match &self.0 {
            PemSource::Text(text) => Ok(Arc::clone(text)),
            PemSource::File(path) => read(path, true).map(Into::into),
        }
    }
}

/// Reads a file that no other user may read or change, see [`check_secret`].
pub(super) fn read_secret_file(path: &Path) -> Result<Vec<u8>, Error> {
    read(path, true)
}

fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, Error> {
    let what = format!("read {}", path.display());
    let os = |error| Error::os(&*what, error);
    let file = File::open(path).map_err(os)?;
    // Of the open file: the name may lead to another one by now.
    if is_secret {
        check_secret(
            &file.metadata().map_err(os)?,
            rustix::process::geteuid().as_raw(),
        )
        .map_err(|problem| Error::new(ErrorKind::BadOption, format!("{what}: {problem}")))?;
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)
        .map_err(os)?;
    if text.len() > BYTES_MAX {
        return Err(Error::new(
            ErrorKind::BadOption,
            format!("{what}: it is longer than 1 MiB, so it is something else"),
        ));
    }
    Ok(text)
}

/// Whether a file is fit to hold a secret of this user. Root may have written it, also for a group
/// to read, as deployments do that hand out secrets.
fn check_secret(file: &Metadata, user: u32) -> Result<(), &'static str> {
    let (owner, mode) = (file.uid(), file.mode());
    if owner != user && owner != 0 {
        return Err(
            "another user owns this secret and could change it; chown it to the user of this \
                program",
        );
    }
    if mode & 0o007 != 0 {
        return Err("everybody may use this secret; chmod 600");
    }
    if mode & 0o020 != 0 || (mode & 0o050 != 0 && owner != 0) {
        return Err(
            "a group may use this secret; chmod 600, or let root own it for a group to read (chmod \
                640)",
        );
    }
    Ok(())
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            PemSource::File(path) => path.display().fmt(f),
            PemSource::Text(_) => f.write_str("the given text"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn a_secret_is_its_users_alone_or_roots() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = |mode, user| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            check_secret(&file.as_file().metadata().unwrap(), user)
                .err()
                .unwrap_or_default()
        };
        let owner = file.as_file().metadata().unwrap().uid();
        assert_eq!(refusal(0o600, owner), "");
        assert!(refusal(0o604, owner).contains("everybody"));
        assert!(refusal(0o620, owner).contains("a group"));
        if owner == 0 {
            // Of root, other users take it, too, and a group may read it.
            assert_eq!((refusal(0o640, 1000), refusal(0o400, 1000)), ("", ""));
            chown(file.path(), Some(65_534), None).unwrap();
            assert!(refusal(0o600, 0).contains("another user"));
            assert!(refusal(0o600, 1000).contains("another user"));
            assert_eq!(refusal(0o600, 65_534), "");
            assert!(refusal(0o640, 65_534).contains("a group"));
        }
    }
}
