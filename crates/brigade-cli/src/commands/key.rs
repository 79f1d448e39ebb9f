//! `brigade key`: makes a shared key for a pool and the hosts that join it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use brigade::remote::generate_key;

/// Make a shared key for a pool that listens and the remote hosts that join it
///
/// Both sides read it with `Credentials::key_file`. Without FILE the command prints the key.
#[derive(clap::Args)]
pub(crate) struct Key {
    /// File to create, readable by its owner only; it must not exist
    file: Option<PathBuf>,
}

impl Key {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let key = generate_key()?;
        match self.file {
            None => writeln!(io::stdout(), "{key}")?,
            Some(path) => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path);
                let mut file = file.map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => anyhow!(
                        "{} exists already, and hosts may use its key: give another name, or \
                            remove it first",
                        path.display()
                    ),
                    _ => anyhow::Error::from(error).context(format!("create {}", path.display())),
                })?;
                writeln!(file, "{key}")
                    .and_then(|()| file.sync_all())
                    .with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
