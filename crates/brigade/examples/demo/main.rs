//! The demonstration: worker processes digest your own files, then survive what would end a
//! program.
//!
//!     cargo run --release --example demo -- [DIR] [--workers N] [--list] [--json]
//!
//! `digest` is the first half, `trial` the second with `mishaps` as its bad calls, `walk` finds the
//! files, `facts` holds what was found out, `report` writes it, for people as it comes or as JSON
//! at the end.

mod arguments;
mod digest;
mod facts;
mod mishaps;
mod report;
mod screen;
mod trial;
mod walk;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use brigade::Pool;

use self::arguments::Arguments;
use self::facts::Facts;
use self::report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Exit code for a wrong command line.
const USAGE: u8 = 2;

#[brigade::main]
async fn main() -> ExitCode {
    let arguments = match arguments::read(std::env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("demo: {error}\n\n{}", arguments::HELP);
            return USAGE.into();
        }
    };
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of our output has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

/// Starts the pool, shows both halves, stops the pool. Returns whether all went as it should.
async fn run(arguments: &Arguments) -> Result<bool> {
    let step = Duration::from_millis(200);
    let pool = Pool::builder()
        .workers(arguments.workers)
        .kill_after(step, step)
        .start()
        .await?;
    let shown = tokio::select! {
        shown = show(&pool, arguments) => shown,
        _ = brigade::stop_signal() => Err("interrupted".into()),
    };
    match shown {
        Ok(is_good) => {
            pool.shutdown().await;
            Ok(is_good)
        }
        Err(error) => {
            pool.kill().await;
            Err(error)
        }
    }
}

async fn show(pool: &Pool, arguments: &Arguments) -> Result<bool> {
    let report = Report::new(arguments.json, arguments.list);
    let digested = digest::tree(pool, &arguments.directory, &report).await?;
    report.digested(&digested)?;
    let trial = trial::run(pool, arguments.workers, &report).await?;
    report.tried(&trial)?;
    let facts = Facts::new(digested, trial);
    report.end(&facts)?;
    Ok(facts.is_good())
}
