//! [`CertificateFiles`]: the certificate of a server and its key, read at its start and again when
//! one of the files may have changed.
//!
//! The two files cannot change at the same instant. Between the two, the new certificate does not
//! fit the old key, is refused as a broken one is, and the server keeps the pair that it has. The
//! change of the second file has both read again.

use std::path::PathBuf;

use brigade_server::ServerTls;

use super::watched_files::WatchedFiles;
use crate::exit::usage;
use crate::show::note;

/// Where the certificate of a server is.
#[derive(Debug)]
pub(super) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    files: WatchedFiles,
}

impl CertificateFiles {
    pub(super) fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            files: WatchedFiles::new([certificate.clone(), key.clone()]),
            certificate,
            key,
        }
    }

    /// Reads the certificate and its key.
    pub(super) fn read(&self) -> anyhow::Result<ServerTls> {
        ServerTls::read(&self.certificate, &self.key).map_err(|error| usage(error.to_string()))
    }

    /// Gives the server the certificate of the files whenever they may have changed. Never returns.
    pub(super) async fn follow(mut self, tls: &ServerTls) {
        loop {
            self.files.changed().await;
            match self.read() {
                Ok(new) => {
                    tls.replace(&new);
                    let name = self.certificate.display();
                    note!("read the certificate in {name} again");
                }
                Err(error) => note!("the certificate stays as it was: {error:#}"),
            }
        }
    }
}
