//! The first half: a call for each file. The caller walks the tree only as far ahead as the workers
//! need; how much there is in all is counted by a call of its own, which reports its progress.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::future;
use std::io::{self, Read as _};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use brigade::{CallError, Context, Pool, task};
use futures_util::stream::{self, StreamExt as _};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Result;
use crate::facts::{Digested, FileDigest};
use crate::report::Report;
use crate::screen::{Progress, bytes, count as text};
use crate::walk::{File, Unreadable, Walk};

/// Calls made ahead, per worker: enough that no worker waits for the walk.
const AHEAD: usize = 4;
/// Slower than this a file counts as unreadable: some files of /proc never end.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
const READ_BYTES: usize = 256 << 10;
/// How often the count reports its progress, in files.
const COUNT_STEP: u64 = 256;

/// What one call gives.
#[derive(Serialize, Deserialize)]
struct Sums {
    bytes: u64,
    md5: String,
    sha256: String,
    worker: u32,
    took: Duration,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Count {
    files: u64,
    bytes: u64,
}

#[task(name = "demo.digest")]
fn digest(cx: &Context, path: OsString) -> io::Result<Sums> {
    let began = Instant::now();
    let (mut md5, mut sha256, mut bytes) = (Md5::new(), Sha256::new(), 0);
    let mut file = std::fs::File::open(&path)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if cx.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        md5.update(&buffer[..read]);
        sha256.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(Sums {
        bytes,
        md5: hex(&md5.finalize()),
        sha256: hex(&sha256.finalize()),
        worker: cx.worker(),
        took: began.elapsed(),
    })
}

#[task(name = "demo.count")]
fn count(cx: &Context, directory: OsString) -> Count {
    let mut count = Count::default();
    for file in Walk::new(Path::new(&directory)).flatten() {
        count.files += 1;
        count.bytes += file.bytes;
        if count.files.is_multiple_of(COUNT_STEP) {
            cx.progress(0.0, count);
            if cx.is_cancelled() {
                break;
            }
        }
    }
    count
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// Digests every file under the directory.
pub(crate) async fn tree(pool: &Pool, directory: &Path, report: &Report) -> Result<Digested> {
    let began = Instant::now();
    let mut progress = Progress::new();
    let tally = RefCell::new(Digested::new(directory));
    let mut counting = pool.call(count(directory.as_os_str().to_owned()));
    let mut counted = counting.progress();

    let walk = stream::iter(Walk::new(directory)).filter_map(|found| {
        let file = found.map_err(|Unreadable { path, reason }| {
            tally.borrow_mut().unreadable(&path, reason.to_string())
        });
        future::ready(file.ok())
    });
    // `Pool::map` would do but for one thing: an error of its stream does not say which file it
    // belongs to.
    let sums = walk.map(|File { path, bytes }| {
        let timeout = Duration::from_secs(10 + bytes / BYTES_PER_SECOND_MIN);
        let call = pool.call(digest(path.as_os_str().to_owned()).timeout(timeout));
        async move { (path, call.await) }
    });
    let mut sums = pin!(sums.buffer_unordered(AHEAD * pool.workers().len().max(1)));

    let (mut is_counted, mut bytes_in_all) = (false, 0);
    loop {
        tokio::select! {
            next = sums.next() => match next {
                Some((path, Ok(sums))) => {
                    let digested = &mut tally.borrow_mut();
                    take(digested, &path, sums, &mut progress, report)?;
                    progress.show(format_args!(
                        "{} files, {} of {}",
                        text(digested.files),
                        bytes(digested.bytes),
                        bytes(bytes_in_all.max(digested.bytes))
                    ));
                }
                Some((path, Err(error))) => refuse(&mut tally.borrow_mut(), &path, &error),
                None => break,
            },
            Some(so_far) = counted.next() => bytes_in_all = so_far.payload::<Count>()?.bytes,
            count = &mut counting, if !is_counted => {
                is_counted = true;
                bytes_in_all = count?.bytes;
            }
        }
    }
    drop(progress);
    let mut digested = tally.take();
    digested.finish(began.elapsed(), &pool.workers());
    Ok(digested)
}

fn take(
    digested: &mut Digested,
    path: &Path,
    sums: Sums,
    progress: &mut Progress,
    report: &Report,
) -> io::Result<()> {
    digested.files += 1;
    digested.bytes += sums.bytes;
    let share = digested.shares.entry(sums.worker).or_default();
    share.files += 1;
    share.bytes += sums.bytes;
    share.busy += sums.took;
    report.file(
        digested,
        progress,
        FileDigest {
            path: path.to_string_lossy().into_owned(),
            bytes: sums.bytes,
            md5: sums.md5,
            sha256: sums.sha256,
        },
    )
}

/// A file may be unreadable without a fault of ours; any other end of a call is one.
fn refuse(digested: &mut Digested, path: &Path, error: &CallError) {
    match error {
        CallError::Failed(failure) => digested.unreadable(path, failure.message.clone()),
        CallError::TimedOut(_) => digested.unreadable(path, "it took too long".to_owned()),
        other => digested.lost(path, other.to_string()),
    }
}
