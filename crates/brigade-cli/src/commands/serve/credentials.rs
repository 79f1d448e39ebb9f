//! Which credentials `brigade serve` wants: a token file, none, or a token of its own.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use brigade_server::Auth;

use super::token_file::TokenFile;
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

/// What the server wants, and the file that it comes from.
pub(super) struct Credentials {
    pub(super) auth: Auth,
    pub(super) file: Option<TokenFile>,
}

pub(super) fn of(choice: Option<&AuthChoice>, address: IpAddr) -> anyhow::Result<Credentials> {
    let file = match choice {
        Some(AuthChoice::None) if !address.is_loopback() => {
            return Err(usage(format!(
                "--auth none is for a loopback address, and {address} can be reached from other \
                    machines: give a token file"
            )));
        }
        Some(AuthChoice::None) => {
            return Ok(Credentials {
                auth: Auth::none(),
                file: None,
            });
        }
        Some(AuthChoice::File(path)) => TokenFile::listed(path),
        None => TokenFile::own()?,
    };
    Ok(Credentials {
        auth: Auth::tokens(file.read()?),
        file: Some(file),
    })
}
