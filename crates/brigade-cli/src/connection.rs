//! The broker of a command, and its name in errors, without the password.

use std::env;
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade::Broker;
use rustix::process::geteuid;

use crate::exit::usage;

/// The environment variable with the broker's URL.
pub(crate) const URL_VARIABLE: &str = "BRIGADE_URL";

/// Options of every command that talks to a broker.
#[derive(clap::Args)]
pub(crate) struct Globals {
    /// Broker to use, e.g. sqlite:jobs.db [default: an SQLite file in your data directory]
    #[arg(long, global = true, value_name = "URL", env = URL_VARIABLE, hide_env_values = true)]
    broker: Option<String>,

    /// Print JSON, one document per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Globals {
    pub(crate) async fn connect(&self) -> anyhow::Result<Broker> {
        let url = self.url()?;
        Broker::connect(&url)
            .await
            .with_context(|| format!("cannot use the broker {}", Broker::redacted_url(&url)))
    }

    /// The broker's URL, with its password.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        match self.broker.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => Ok(url.to_owned()),
            None => default_url(),
        }
    }
}

/// A text in which arguments of this process may be quoted: URLs among them without their
/// passwords.
pub(crate) fn without_passwords(text: String) -> String {
    let arguments = env::args_os()
        .skip(1)
        .filter_map(|argument| argument.into_string().ok());
    let urls = arguments.map(|argument| match argument.split_once('=') {
        Some((option, url)) if option.starts_with('-') => url.to_owned(),
        _ => argument,
    });
    // JSON is none.
    let is_url = |url: &String| url.contains(['@', '/', '?']) && !url.starts_with(['{', '[', '"']);
    urls.filter(is_url).fold(text, |text, url| {
        text.replace(&url, &Broker::redacted_url(&url))
    })
}

/// The directory of this user's files. It is made, for this user alone.
pub(crate) fn private_directory() -> anyhow::Result<PathBuf> {
    let directory = data_directory(
        env::var_os("XDG_DATA_HOME").map(PathBuf::from),
        env::home_dir(),
    )
    .ok_or_else(|| {
        usage("no home directory to keep files in: name a broker with --broker or BRIGADE_URL")
    })?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    keep_private(&directory)?;
    Ok(directory)
}

/// The default file.
fn default_url() -> anyhow::Result<String> {
    let file = private_directory()?.join("jobs.db");
    match file.to_str() {
        Some(path) => Ok(format!(
            "sqlite:{}",
            path.replace('%', "%25").replace('?', "%3F")
        )),
        _ => Err(usage(format!(
            "{} cannot be written as a URL: name a broker with --broker or BRIGADE_URL",
            file.display()
        ))),
    }
}

/// The directory may have been there before: it must be this user's, and for this user alone.
fn keep_private(directory: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot use the directory {}", directory.display());
    // All by one descriptor, so that no other directory can come in between.
    let open = File::open(directory).with_context(cannot)?;
    let metadata = open.metadata().with_context(cannot)?;
    if metadata.uid() != geteuid().as_raw() {
        let owner = metadata.uid();
        return Err(usage(format!(
            "{}: it belongs to user {owner}; name a broker with --broker or BRIGADE_URL",
            cannot()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        open.set_permissions(Permissions::from_mode(0o700))
            .with_context(|| format!("{}: others may read it", cannot()))?;
    }
    Ok(())
}

/// By the XDG base directory specification, which has relative paths ignored.
fn data_directory(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let is_given = |path: &PathBuf| path.is_absolute();
    let base = xdg.filter(is_given).or_else(|| {
        home.filter(is_given)
            .map(|home| home.join(Path::new(".local/share")))
    });
    base.map(|base| base.join("brigade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_an_absolute_one() {
        let home = || Some(PathBuf::from("/house/me"));
        assert_eq!(
            data_directory(None, home()),
            Some("/house/me/.local/share/brigade".into())
        );
        assert_eq!(
            data_directory(Some("/data".into()), home()),
            Some("/data/brigade".into())
        );
        assert_eq!(
            data_directory(Some("data".into()), home()),
            Some("/house/me/.local/share/brigade".into())
        );
        assert_eq!(data_directory(None, None), None);
    }
}
