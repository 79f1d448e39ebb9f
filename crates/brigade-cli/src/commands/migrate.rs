//! `brigade migrate`: the schema of a PostgreSQL database.

use std::process::ExitCode;

use anyhow::Context as _;
use brigade::Broker;

use crate::connection::Globals;
use crate::show::{self, note};

/// Make the schema of a PostgreSQL database, or bring it up to date
///
/// A program that connects does this as well, if its user may. Run this with a user of more rights
/// where programs have few.
#[derive(clap::Args)]
pub(crate) struct Migrate {
    /// Print the SQL instead of running it; nothing if the schema is up to date
    #[arg(long)]
    print: bool,
}

impl Migrate {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let url = globals.url()?;
        let failed = || format!("cannot use the broker {}", Broker::redacted_url(&url));
        if self.print {
            let sql = Broker::migration(&url).await.with_context(failed)?;
            if !sql.is_empty() {
                show::block(sql.trim_end())?;
            }
        } else if Broker::migrate(&url).await.with_context(failed)? {
            note!("the schema brigade is made and up to date");
        } else {
            note!("the schema brigade was up to date");
        }
        Ok(ExitCode::SUCCESS)
    }
}
