//! Which credentials `brigade serve` wants: a token file, none, or a token of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use brigade_server::{Auth, NewToken, Roles, Tokens};

use crate::connection::private_directory;
use crate::exit::usage;

/// The value of `--auth`.
#[derive(Clone, Debug)]
pub(super) enum AuthChoice {
    None,
    File(PathBuf),
}

impl FromStr for AuthChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "none" => Self::None,
            path => Self::File(path.into()),
        })
    }
}

/// What the server wants, and where its own token is, if it has one.
pub(super) struct Credentials {
    pub(super) auth: Auth,
    pub(super) path: Option<PathBuf>,
}

/// The name of the server's own token.
const OWN_NAME: &str = "local";
const OWN_FILE: &str = "server-token";

pub(super) fn of(choice: Option<&AuthChoice>, address: IpAddr) -> anyhow::Result<Credentials> {
    match choice {
        Some(AuthChoice::None) if !address.is_loopback() => Err(usage(format!(
            "--auth none is for a loopback address, and {address} can be reached from other \
                machines: give a token file"
        ))),
        Some(AuthChoice::None) => Ok(Credentials {
            auth: Auth::none(),
            path: None,
        }),
        Some(AuthChoice::File(path)) => Ok(Credentials {
            auth: Auth::tokens(of_file(path)?),
            path: None,
        }),
        None => own(),
    }
}

fn of_file(path: &Path) -> anyhow::Result<Tokens> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let tokens = Tokens::read(&text).map_err(|problem| usage(format!("{name}: {problem}")))?;
    if tokens.is_empty() {
        return Err(usage(format!(
            "{name} has no token: add one with `brigade token {name} NAME ROLES`"
        )));
    }
    Ok(tokens)
}

/// The token of this user, made at the first start.
fn own() -> anyhow::Result<Credentials> {
    let path = private_directory()?.join(OWN_FILE);
    let what = || format!("cannot use the token file {}", path.display());
    let token = match fs::read_to_string(&path) {
        Ok(token) => token.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = NewToken::generate(OWN_NAME, Roles::all()).with_context(what)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .with_context(what)?;
            writeln!(file, "{}", token.token()).with_context(what)?;
            token.token().to_owned()
        }
        Err(error) => return Err(error).with_context(what),
    };
    if token.is_empty() {
        return Err(usage(format!("{} is empty: remove it", path.display())));
    }
    let mut tokens = Tokens::default();
    tokens.add(OWN_NAME, Roles::all(), &token);
    Ok(Credentials {
        auth: Auth::tokens(tokens),
        path: Some(path),
    })
}
