//! A wall clock for one process, which can be set while it runs: libfaketime, Debian's package
//! faketime. Other clocks of the process go on as they are.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The clock of the processes that get its environment.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    directory: tempfile::TempDir,
}

impl WallClock {
    /// A clock that shows the host's time.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no libfaketime; else what the operating system says.
    pub fn new() -> io::Result<Self> {
        let library = fs::read_dir("/usr/lib")?
            .flatten()
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
            .ok_or_else(|| {
                let text = "no libfaketime: install Debian's package faketime";
                io::Error::new(io::ErrorKind::NotFound, text)
            })?;
        let directory = tempfile::Builder::new()
            .prefix("brigade-clock-")
            .tempdir()?;
        let clock = Self { library, directory };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it, as an offset from the host's: `+1h`, `-30m`.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn set(&self, offset: &str) -> io::Result<()> {
        let new = self.directory.path().join("new");
        fs::write(&new, offset)?;
        fs::rename(new, self.directory.path().join("offset"))
    }

    /// What a process needs in its environment to have this clock.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        // Redis is built with jemalloc, which asks for the time before libfaketime is ready: the
        // allocator of the C library takes its place.
        let mut preload = OsString::from(self.library.clone());
        preload.push(":libc.so.6");
        vec![
            ("LD_PRELOAD", preload),
            (
                "FAKETIME_TIMESTAMP_FILE",
                self.directory.path().join("offset").into(),
            ),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}
