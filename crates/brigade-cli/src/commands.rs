//! The subcommands: which there are, and nothing else.

mod demo;

use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Demo(demo::Demo),
}

impl Command {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Demo(demo) => demo.run().await,
        }
    }
}
