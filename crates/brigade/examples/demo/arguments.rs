//! The command line, read by hand: a parser of one would take longer to build than the rest.

use std::ffi::OsString;
use std::path::PathBuf;

/// The text for `--help`.
pub(crate) const HELP: &str = "\
Digest every file under a directory on worker processes, then crash some of them on purpose

Usage: demo [OPTIONS] [DIR]

Computes the MD5 and SHA-256 of every regular file under DIR (default: the current directory;
symbolic links are not followed, files that cannot be read are counted and named). Then it provokes a
segfault, a stack overflow, an endless loop and a memory hog among a thousand good calls, prints how
each of them ended and what it cost, and checks that every good call gave its value and that the
pool is whole again. It changes no file.

Options:
  --workers N   worker processes, 1 to 1024 (default: one per CPU that this process may use)
  --list        also print the digests of every file
  --json        print nothing but one JSON document at the end
  --help        print this text";

/// What the demonstration is asked for.
pub(crate) struct Arguments {
    pub(crate) directory: PathBuf,
    pub(crate) workers: usize,
    pub(crate) list: bool,
    pub(crate) json: bool,
}

/// `None` if only help is wanted.
pub(crate) fn read(given: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        directory: PathBuf::from("."),
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        list: false,
        json: false,
    };
    let mut given = given.peekable();
    let mut directories = 0;
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--list") => arguments.list = true,
            Some("--json") => arguments.json = true,
            Some("--workers") => arguments.workers = workers(given.next())?,
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option {option}"));
            }
            _ => {
                directories += 1;
                arguments.directory = PathBuf::from(argument);
            }
        }
    }
    if directories > 1 {
        return Err("more than one directory".to_owned());
    }
    let shown = arguments.directory.display();
    match arguments.directory.metadata() {
        Ok(found) if found.is_dir() => Ok(Some(arguments)),
        Ok(_) => Err(format!("{shown} is not a directory")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn workers(value: Option<OsString>) -> Result<usize, String> {
    let number = value.and_then(|value| value.to_str()?.parse().ok());
    number
        .filter(|number| (1..=1024).contains(number))
        .ok_or_else(|| "--workers needs a number from 1 to 1024".to_owned())
}
