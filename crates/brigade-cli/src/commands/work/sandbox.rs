//! The sandbox of the programs: that of the command line, and that which a job asks for.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use brigade::{Confined, Error, PreparedSandbox, Sandbox};

/// What programs may do to the rest of the machine.
#[derive(clap::Args)]
pub(crate) struct SandboxOptions {
    /// What programs may do to the machine: no-network, read-only or compute (programs and
    /// libraries of the system are readable); a job that asks for another one gets that
    #[arg(long, value_name = "PROFILE")]
    sandbox: Option<Sandbox>,

    /// What programs may read in the sandbox, in addition; with all that is below
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    read: Vec<PathBuf>,

    /// What programs may read and write in the sandbox, in addition; with all that is below
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    write: Vec<PathBuf>,
}

impl SandboxOptions {
    /// The sandbox of all programs, in addition to the one that a job asks for.
    pub(super) fn prepare(&self) -> anyhow::Result<Option<Arc<PreparedSandbox>>> {
        let Some(profile) = &self.sandbox else {
            return Ok(None);
        };
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("find the path {}", path.display()))
        };
        let mut builder = profile.to_builder();
        for path in &self.read {
            builder = builder.read(absolute(path)?);
        }
        for path in &self.write {
            builder = builder.write(absolute(path)?);
        }
        Ok(Some(prepared(&builder.build()?)?))
    }
}

/// Makes a sandbox ready for programs.
pub(super) fn prepared(sandbox: &Sandbox) -> Result<Arc<PreparedSandbox>, Error> {
    PreparedSandbox::new(&sandbox.of_command(), Confined::Program).map(Arc::new)
}
