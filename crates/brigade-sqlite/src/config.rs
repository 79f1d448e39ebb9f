//! Where a database is, and how it is used: what a URL means.
//!
//! `sqlite:PATH` and `sqlite://PATH` mean the same, relative to the working directory unless `PATH`
//! begins with `/`, and `%20` and the like stand for bytes: as in sqlx, so that one URL can serve
//! both.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use brigade_core::store::url::percent;

/// Where the database is, and how.
#[derive(Clone, Debug)]
pub(super) struct SqliteConfig {
    /// Absolute, and no symbolic link: SQLite keeps the log next to the file that a link points to.
    /// `None` for a database in memory.
    pub(super) path: Option<PathBuf>,
    /// The symbolic link to the file, if the URL names one.
    pub(super) link: Option<PathBuf>,
    pub(super) safety: Safety,
    /// It may have tables of another program.
    pub(super) shared: bool,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// Power loss: each transaction is synced.
    Full,
    /// The end of any process; power loss takes the last transactions.
    Normal,
}

/// What may stand behind the `?`.
const OPTIONS: &str = "synchronous=full, synchronous=normal, shared=true, shared=false";

impl SqliteConfig {
    /// What stands behind `sqlite:`.
    ///
    /// # Errors
    ///
    /// `BadOption` with the right spelling.
    pub(super) fn parse(rest: &str) -> Result<Self, Error> {
        // Nothing of the URL is quoted: it may be that of another broker, with its password.
        let wrong = |what: &str| {
            Error::new(
                ErrorKind::BadOption,
                format!("open a SQLite broker: {what}"),
            )
        };
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        if path.starts_with("//") && path.contains('@') {
            return Err(wrong(
                "its URL has no user and no host; write sqlite:jobs.db, and an @ in a path behind \
                    // as %40",
            ));
        }
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.starts_with("file:") {
            return Err(wrong(
                "file: is no part of its URL; write sqlite:jobs.db or sqlite:/var/lib/app/jobs.db",
            ));
        }
        let path = match path {
            "" => {
                return Err(wrong(
                    "the path is missing; write sqlite:jobs.db, or sqlite::memory: for one in \
                        memory",
                ));
            }
            ":memory:" => None,
            path => {
                let bytes =
                    percent::decode(path).map_err(|why| wrong(&format!("in its path {why}")))?;
                if bytes.contains(&0) {
                    return Err(wrong("its path has a zero byte (%00), which no path has"));
                }
                let path = PathBuf::from(OsString::from_vec(bytes));
                // So that a change of the working directory makes it no other file.
                let absolute = std::path::absolute(&path).map_err(|e| {
                    Error::os(format!("find the directory of {}", path.display()), e)
                })?;
                Some(absolute)
            }
        };
        let named = path;
        let path = named.clone().map(behind_links);
        let mut config = Self {
            link: named.filter(|named| path.as_ref() != Some(named)),
            path,
            safety: Safety::Full,
            shared: false,
        };
        config.read_options(options).map_err(|why| wrong(&why))?;
        Ok(config)
    }

    /// What stands behind the `?`; the error is a sentence for people.
    fn read_options(&mut self, options: &str) -> Result<(), String> {
        let mut known = Vec::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let name = option.split('=').next().unwrap_or(option);
            match option {
                "synchronous=full" => self.safety = Safety::Full,
                "synchronous=normal" => self.safety = Safety::Normal,
                "shared=true" => self.shared = true,
                "shared=false" => self.shared = false,
                _ if ["synchronous", "shared"].contains(&name) => {
                    return Err(format!(
                        "the option {name} has an unknown value (supported: {OPTIONS})"
                    ));
                }
                _ => {
                    return Err(format!(
                        "it has an unknown option (supported: {OPTIONS}); a ? in the name of a \
                            file is written %3F"
                    ));
                }
            }
            if known.contains(&name) {
                return Err(format!("the option {name} is given twice"));
            }
            known.push(name);
        }
        Ok(())
    }
}

/// The file that a symbolic link points to, which need not be there yet.
fn behind_links(mut path: PathBuf) -> PathBuf {
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&path) else {
            return path;
        };
        path.pop();
        path.push(target);
    }
    // A circle, of which SQLite has the better error.
    path
}

/// As many as Linux follows.
const LINKS_MAX: usize = 40;

/// The write-ahead log of a file.
pub(super) fn log_of(path: &Path) -> PathBuf {
    sibling(path, "-wal")
}

/// The file that stands next to a database and has its name with this ending.
pub(super) fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn path(rest: &str) -> PathBuf {
        SqliteConfig::parse(rest)
            .unwrap_or_else(|e| panic!("{rest}: {e}"))
            .path
            .unwrap()
    }

    #[test]
    fn a_path_is_written_as_for_sqlx() {
        let here = std::env::current_dir().unwrap();
        for rest in ["jobs.db", "//jobs.db", "./jobs.db"] {
            assert_eq!(path(rest), here.join("jobs.db"), "{rest}");
        }
        for rest in [
            "/var/jobs.db",
            "///var/jobs.db",
            "/var/jobs.db?shared=true&synchronous=normal",
        ] {
            assert_eq!(path(rest), Path::new("/var/jobs.db"), "{rest}");
        }
        assert_eq!(path("a%20b%25%3f.db"), here.join("a b%?.db"));
        assert_eq!(
            path("%ff.db").file_name().unwrap().as_encoded_bytes(),
            b"\xff.db"
        );
        assert!(
            SqliteConfig::parse(":memory:").unwrap().path.is_none()
                && SqliteConfig::parse("//:memory:").unwrap().path.is_none()
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_right_spelling() {
        for (rest, advice) in [
            ("", "write sqlite:jobs.db"),
            ("//", "write sqlite:jobs.db"),
            ("file:jobs.db", "write sqlite:jobs.db"),
            ("file:///var/jobs.db", "write sqlite:jobs.db"),
            ("//user:password@host/jobs.db", "no user"),
            ("jobs%2.db", "write %25"),
            ("jobs%zz.db", "write %25"),
            ("jobs%00.db", "zero byte"),
            ("jobs.db?sycnhronous=full", "unknown option"),
            ("jobs.db?mode=rwc", "unknown option"),
            ("jobs.db?synchronous=off", "synchronous=normal"),
            ("jobs.db?shared", "shared=true"),
            ("jobs.db?shared=true&shared=false", "twice"),
        ] {
            let error = SqliteConfig::parse(rest).unwrap_err();
            assert!(
                error.kind() == ErrorKind::BadOption && error.to_string().contains(advice),
                "{rest}: {error}"
            );
            assert!(!error.to_string().contains("password"), "{error}");
        }
    }
}
