//! Errors of SQLite, for people: what failed, what that means, what to do.

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// A commit that failed. Where the disk failed, it is not known what of it is there.
pub(super) fn commit_error(source: rusqlite::Error) -> Error {
    let is_uncertain = source.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
    if is_uncertain {
        let text = "commit: the disk failed; whether this was stored is not known, and nothing \
            more is until the file is opened again";
        return Error::new(ErrorKind::Os, text)
            .with_source(source)
            .uncertain();
    }
    sql_error("commit", source)
}

/// An error of SQLite, with a sentence for people.
pub(super) fn sql_error(what: &str, source: rusqlite::Error) -> Error {
    let (kind, hint) = match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Timeout,
            "another process holds the file; try again",
        ),
        Some(ErrorCode::DiskFull) => (
            ErrorKind::Os,
            "the disk is full; nothing of this was stored",
        ),
        Some(ErrorCode::ReadOnly) => (
            ErrorKind::Os,
            "the file or its directory cannot be written to",
        ),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Os,
            "the file is damaged or no database; restore a copy, or recover it with sqlite3's \
                .recover",
        ),
        Some(ErrorCode::CannotOpen) => (ErrorKind::Os, "the file or its directory cannot be read"),
        _ => (ErrorKind::Os, "the database refused"),
    };
    Error::new(kind, format!("{what}: {hint}")).with_source(source)
}
