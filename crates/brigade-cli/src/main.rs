//! The `brigade` command. Each subcommand has a module of its own in `commands`.

mod commands;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;

/// Runs functions in worker processes that may crash, hang or leak without hurting anything else.
#[derive(Parser)]
#[command(name = "brigade", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 good, 1 something went wrong, 2 wrong usage. Colour is off where NO_COLOR is set.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[brigade::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.run().await {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brigade: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
