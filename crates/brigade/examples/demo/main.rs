//! `brigade demo`: worker processes digest the user's own files, then survive what would end a
//! program.
//!
//! `digest` is the first half, `trial` the second with `mishaps` as its bad calls, `walk` finds the
//! files, `report` holds the facts and writes them, for people as they come or as JSON at the end.

mod digest;
mod mishaps;
mod report;
mod trial;
mod walk;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use brigade::Pool;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use self::report::{Report, Writer};

/// Digest every file under a directory on worker processes, then crash some of them on purpose
///
/// Computes the MD5 and SHA-256 of every regular file under DIR (symbolic links are not followed;
/// what cannot be read is counted and named). Then it provokes a segfault, a stack overflow, an
/// endless loop and a memory hog among a thousand good calls, prints how each of them ended and
/// what it cost, and checks that every good call gave its value and that the pool is whole again.
/// It changes no file.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// Directory whose files to digest
    #[arg(value_name = "DIR", default_value = ".", value_parser = OsStringValueParser::new().try_map(directory))]
    directory: PathBuf,

    /// Worker processes [default: one per CPU that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Also print the digests of every file
    #[arg(long)]
    list: bool,

    /// Print nothing but one JSON document at the end
    #[arg(long)]
    json: bool,
}

fn directory(text: OsString) -> Result<PathBuf, String> {
    match std::fs::metadata(&text) {
        Ok(found) if found.is_dir() => Ok(text.into()),
        Ok(_) => Err("it is not a directory".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Demo {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.map_or_else(cpus, usize::from);
        let step = Duration::from_millis(200);
        let pool = Pool::builder()
            .workers(workers)
            .kill_after(step, step)
            .start()
            .await
            .context("cannot start the workers")?;
        let shown = tokio::select! {
            shown = self.show(&pool, workers) => shown,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        match shown {
            Ok(good) => {
                pool.shutdown().await;
                Ok(if good {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                })
            }
            Err(error) => {
                pool.kill().await;
                Err(error)
            }
        }
    }

    /// Both halves. Returns whether all went as it should.
    async fn show(&self, pool: &Pool, workers: usize) -> anyhow::Result<bool> {
        let writer = Writer::new(self.json, self.list);
        let digested = digest::tree(pool, &self.directory, &writer).await?;
        writer.digested(&digested)?;
        let trial = trial::run(pool, workers, &writer).await?;
        writer.tried(&trial)?;
        let report = Report::new(digested, trial);
        writer.end(&report)?;
        Ok(report.good)
    }
}
