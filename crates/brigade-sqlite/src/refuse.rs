//! Files that must not be opened, because SQLite would make something new out of what is left of
//! them.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use super::config::{log_of, sibling};
use super::sql_error::sql_error;
use crate::error::{Error, ErrorKind};

/// Looks at the files before SQLite does.
///
/// # Errors
///
/// `Os`; its text names what is missing.
pub(super) fn broken_set(path: &Path) -> Result<(), Error> {
    let size = match fs::metadata(path) {
        Ok(file) if file.is_dir() => return Err(refusal(path, "it is a directory")),
        Ok(file) => Some(file.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            has_directory(path)?;
            None
        }
        // SQLite has the better error.
        Err(_) => return Ok(()),
    };
    // SQLite would take what is shorter than any page for a new file.
    if let Some(size @ 1..PAGE_BYTES_MIN) = size {
        return Err(refusal(
            path,
            &format!("it has {size} bytes, which is no database; restore a copy"),
        ));
    }
    // SQLite would delete a log whose file is empty. A new file is filled before there is a
    // log.
    if size.unwrap_or(0) == 0 && length(&log_of(path)) > 0 {
        let lost = if size.is_some() {
            "it is empty"
        } else {
            "it is gone"
        };
        let log = log_of(path);
        return Err(refusal(
            path,
            &format!(
                "{lost}, but its log {} is there with the newest jobs; restore the file",
                log.display()
            ),
        ));
    }
    // Both are removed when the last connection is closed, the index first. Another process may be
    // doing that, or opening it again, right now.
    let index = sibling(path, "-shm");
    let log_is_gone = || !log_of(path).exists() && length(&index) > 0 && !log_of(path).exists();
    if size.is_some() && (0..LOOKS).all(|_| log_is_gone()) {
        let (log, index) = (log_of(path), index.display());
        let what = format!(
            "its log {} was deleted, with the newest jobs; restore it, or delete {index} to go on \
                without them",
            log.display()
        );
        return Err(refusal(path, &what));
    }
    Ok(())
}

/// SQLite would only say that it cannot open the file, three times.
fn has_directory(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(directory) if !directory.exists() => {
            let directory = directory.display();
            let what = format!("there is no directory {directory}; make it first");
            Err(refusal(path, &what))
        }
        _ => Ok(()),
    }
}

/// Of SQLite's page sizes.
const PAGE_BYTES_MIN: u64 = 512;
/// A state that only lasts while another process opens and closes the file is not seen this often
/// in a row.
const LOOKS: usize = 3;

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// A database without tables that is larger than one has lost them.
///
/// # Errors
///
/// `Os` with a sentence.
pub(super) fn lost_tables(connection: &Connection, tables: i64) -> Result<(), Error> {
    let read = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let used = || Ok(read("PRAGMA page_count")? - read("PRAGMA freelist_count")?);
    let used = used().map_err(|e| sql_error("read the database's size", e))?;
    if tables == 0 && used > 1 {
        let text = format!(
            "open a file of {used} pages in use that has no tables: it is damaged; restore a copy, \
                or recover it with sqlite3's .recover"
        );
        return Err(Error::new(ErrorKind::Os, text));
    }
    Ok(())
}

fn refusal(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Os, format!("open {}: {what}", path.display()))
}
