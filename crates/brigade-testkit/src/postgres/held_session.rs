//! A session that stays open: of another program that holds a lock or a snapshot.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use super::template::Programs;

/// Dropping it ends the session, and its transaction is rolled back.
#[derive(Debug)]
pub struct HeldSession(Child);

impl HeldSession {
    pub(super) fn start(programs: &Programs, target: &str, statements: &str) -> io::Result<Self> {
        let mut psql = programs
            .command(programs.program("psql"))
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname", target])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let session = match (psql.stdin.as_mut(), psql.stdout.take()) {
            (Some(input), Some(output)) => {
                // Its last line says that everything before has run.
                writeln!(input, "{statements}\n\\echo held")?;
                let mut lines = BufReader::new(output).lines();
                let is_held = lines.any(|line| line.is_ok_and(|line| line == "held"));
                is_held.then_some(Self(psql))
            }
            _ => None,
        };
        session.ok_or_else(|| io::Error::other(format!("the session ended: {statements}")))
    }
}

impl Drop for HeldSession {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
