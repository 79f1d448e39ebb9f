//! `brigade completions` and `brigade man`: made from the definition of the command line, so that
//! they cannot differ from it.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap_complete::Shell;
use clap_mangen::Man;

/// Print the completions for a shell
///
/// For bash: `brigade completions bash > ~/.local/share/bash-completion/completions/brigade`. For
/// zsh: write it to a file `_brigade` in a directory of `$fpath`. For fish: `brigade completions
/// fish > ~/.config/fish/completions/brigade.fish`.
#[derive(clap::Args)]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: clap::Command) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "brigade", &mut text);
        io::stdout().write_all(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Write the manual pages to a directory, or print the first of them
///
/// With DIR: `brigade.1` and a page for each command, `brigade-push.1` and so on. For example:
/// `brigade man ~/.local/share/man/man1`.
#[derive(clap::Args)]
pub(crate) struct Manual {
    /// Where to write them; it is made if it does not exist
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Manual {
    pub(crate) fn run(self, command: clap::Command) -> anyhow::Result<ExitCode> {
        match self.directory {
            None => {
                let mut text = Vec::new();
                Man::new(command.disable_help_subcommand(true)).render(&mut text)?;
                io::stdout().write_all(&text)?;
            }
            Some(directory) => {
                fs::create_dir_all(&directory)
                    .with_context(|| format!("make the directory {}", directory.display()))?;
                clap_mangen::generate_to(command, &directory)
                    .with_context(|| format!("write manual pages to {}", directory.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
