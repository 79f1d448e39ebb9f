//! The files under a directory, found as they are asked for.

use std::fs::{self, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

/// Regular files under a directory, in no particular order. Symbolic links are not followed. It
/// keeps one directory open and remembers those that it has yet to enter.
pub(crate) struct Walk {
    open: Option<(PathBuf, ReadDir)>,
    waiting: Vec<PathBuf>,
}

pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// What could not be read, and why.
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) reason: io::Error,
}

impl Walk {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            open: None,
            waiting: vec![directory.to_owned()],
        }
    }

    /// The next entry of the open directory or, if there is none, the next directory. `None` at the
    /// end.
    fn step(&mut self) -> Option<Result<Option<File>, Unreadable>> {
        if let Some((directory, entries)) = &mut self.open {
            match entries.next() {
                Some(Ok(entry)) => {
                    let path = entry.path();
                    // Does not follow links.
                    return Some(match entry.metadata() {
                        Ok(found) if found.is_file() => Ok(Some(File {
                            path,
                            bytes: found.len(),
                        })),
                        Ok(found) if found.is_dir() => {
                            self.waiting.push(path);
                            Ok(None)
                        }
                        Ok(_) => Ok(None),
                        Err(reason) => Err(Unreadable { path, reason }),
                    });
                }
                Some(Err(reason)) => {
                    let path = directory.clone();
                    self.open = None;
                    return Some(Err(Unreadable { path, reason }));
                }
                None => self.open = None,
            }
        }
        let path = self.waiting.pop()?;
        match fs::read_dir(&path) {
            Ok(entries) => {
                self.open = Some((path, entries));
                Some(Ok(None))
            }
            Err(reason) => Some(Err(Unreadable { path, reason })),
        }
    }
}

impl Iterator for Walk {
    type Item = Result<File, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.step()?.transpose() {
                return Some(found);
            }
        }
    }
}
