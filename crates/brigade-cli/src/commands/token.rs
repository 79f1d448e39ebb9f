//! `brigade token`: tokens of `brigade serve`.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use brigade_server::{NewToken, Roles, Tokens};
use serde_json::json;

use crate::exit::usage;
use crate::show;

/// Add a token to a token file of `brigade serve`, and print it
///
/// The file keeps only a hash, so the token is shown this once. A running server reads the file
/// again when it changes. To revoke a token, remove its line.
#[derive(clap::Args)]
pub(crate) struct Token {
    /// Token file; it is made if it is not there
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Name of the token, one word; the access log shows it
    #[arg(value_name = "NAME")]
    name: String,

    /// Roles, with commas between: read, push, work, admin
    #[arg(value_name = "ROLES")]
    roles: Roles,
}

impl Token {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let path = self.file.display();
        let cannot = || format!("cannot use the token file {path}");
        let token = NewToken::generate(&self.name, self.roles).map_err(|e| usage(e.to_string()))?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.file)
            .with_context(cannot)?;
        // Two commands at once could both find that a name is free.
        file.lock().with_context(cannot)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(cannot)?;
        let gap = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let added = format!("{gap}{}", token.line());
        // The name may be taken, and the file may be none.
        Tokens::read(&format!("{text}{added}")).map_err(|e| usage(format!("{path}: {e}")))?;
        file.write_all(added.as_bytes()).with_context(cannot)?;
        file.sync_data().with_context(cannot)?;
        if json {
            show::json(&json!({ "name": self.name, "token": token.token() }))?;
        } else {
            show::line(token.token())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
