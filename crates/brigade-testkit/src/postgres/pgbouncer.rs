//! PgBouncer in front of a server.

use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::template::Programs;
use crate::facts;
use crate::places::free_port;

const START_BOUND: Duration = Duration::from_secs(30);

/// A running pooler. Dropping it ends it; so does the end of this process.
#[derive(Debug)]
pub struct PgBouncer {
    guardian: Child,
    port: u16,
}

/// Argument: its directory. It is gone with the end of the standard input.
const GUARDIAN: &str = r#"
cd "$1" || exit 1
setpriv --pdeathsig KILL "$2" config </dev/null >log 2>&1 &
read -r end
kill -9 $!
wait
rm -rf "$1"
"#;

impl PgBouncer {
    /// In front of the server with this socket.
    pub(super) fn start(
        programs: &Programs,
        (socket_directory, server_port): (&Path, u16),
        mode: &str,
        lines: &[&str],
    ) -> io::Result<Self> {
        let program = program()?;
        let directory = programs.directory(&std::env::temp_dir(), "brigade-pgbouncer-")?;
        let port = free_port();
        let config = format!(
            "[databases]\n* = host={} port={server_port} user=postgres\n[pgbouncer]\n\
                listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                auth_type = any\npool_mode = {mode}\nmax_client_conn = 1000\n{}\n",
            socket_directory.display(),
            lines.join("\n")
        );
        programs.write(&directory.path().join("config"), config.as_bytes())?;
        let guardian = programs
            .command("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .args([directory.path(), &program])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let directory = directory.keep();
        let this = Self { guardian, port };
        facts::wait_until(START_BOUND, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .ok_or_else(|| {
            let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            io::Error::other(format!("PgBouncer does not answer: {log}"))
        })?;
        Ok(this)
    }

    /// The URL of the server's first database through it.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        self.guardian.wait().ok();
    }
}

/// It is in a directory that ordinary users may not have in PATH.
fn program() -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join("pgbouncer"))
        .find(|program| program.exists())
        .ok_or_else(|| {
            let text = "there is no pgbouncer: install Debian's package of that name";
            io::Error::new(io::ErrorKind::NotFound, text)
        })
}
