//! The `brigade` command. Each subcommand has a module of its own in `commands`.

mod causes;
mod commands;
mod connection;
mod escape;
mod exit;
mod show;
mod terminal;
mod times;
mod trace;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

use crate::causes::with_causes;
use crate::commands::Command;
use crate::connection::Globals;
use crate::show::note;

/// Runs functions in worker processes that may crash, hang or leak without hurting anything else.
#[derive(Parser)]
#[command(
    name = "brigade",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    globals: Globals,
}

#[brigade::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return print_usage(&error),
    };
    match arguments
        .command
        .run(&arguments.globals, Arguments::command)
        .await
    {
        Ok(code) => code,
        // The reader of the output has closed it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("{}", with_causes(&error));
            exit::of(&error)
        }
    }
}

/// Help, or what is wrong with the command line. It quotes arguments, and a URL may have got among
/// them.
fn print_usage(error: &clap::Error) -> ExitCode {
    let is_url = |argument: OsString| argument.to_string_lossy().contains(['@', '/', '?']);
    if !error.use_stderr() || !env::args_os().skip(1).any(is_url) {
        // The same as clap's own exit, but for the type of the code. The reader may be gone.
        error.print().ok();
    } else {
        eprint_all(&connection::without_passwords(error.render().to_string()));
    }
    u8::try_from(error.exit_code())
        .unwrap_or(exit::USAGE)
        .into()
}

fn eprint_all(text: &str) {
    // The reader may be gone.
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
