//! The `brigade` command. Each subcommand has a module of its own in `commands`.

mod commands;
mod connection;
mod escape;
mod exit;
mod show;
mod terminal;
mod times;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::connection::Globals;

/// Runs functions in worker processes that may crash, hang or leak without hurting anything else.
#[derive(Parser)]
#[command(name = "brigade", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    globals: Globals,
}

#[brigade::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.run(&arguments.globals).await {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brigade: {}", escape::escape(&with_causes(&error)));
            exit::of(&error)
        }
    }
}

/// An error and its causes, none of them twice: some tell their cause's text as well.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text {
        _ if text.contains(&cause) => text,
        _ if text.is_empty() => cause,
        _ => format!("{text}: {cause}"),
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
