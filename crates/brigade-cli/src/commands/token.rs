//! `brigade token`: tokens of `brigade serve`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
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
/// The file keeps only a hash, so the token is shown this once. Restart the server to have it read
/// the file again. To revoke a token, remove its line.
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
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(cannot),
        };
        let gap = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let added = format!("{gap}{}", token.line());
        // The name may be taken, and the file may be none.
        Tokens::read(&format!("{text}{added}")).map_err(|e| usage(format!("{path}: {e}")))?;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.file)
            .with_context(cannot)?;
        file.write_all(added.as_bytes()).with_context(cannot)?;
        if json {
            show::json(&json!({ "name": self.name, "token": token.token() }))?;
        } else {
            show::line(token.token())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
