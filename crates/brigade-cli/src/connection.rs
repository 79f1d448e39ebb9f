//! Which broker, and how it is told in errors: without its password.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade::Broker;

use crate::exit::usage;

/// Options of every command that talks to a broker.
#[derive(clap::Args)]
pub(crate) struct Globals {
    /// Broker to use, e.g. sqlite:jobs.db [default: an SQLite file in your data directory]
    #[arg(long, global = true, value_name = "URL", env = "BRIGADE_URL", hide_env_values = true)]
    broker: Option<String>,

    /// Print JSON, one document per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Globals {
    pub(crate) async fn connect(&self) -> anyhow::Result<Broker> {
        let url = match self.broker.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => url.to_owned(),
            None => default_url()?,
        };
        let connected = Broker::connect(&url).await;
        let secrets = secrets(&url);
        if secrets.is_empty() {
            return connected.with_context(|| format!("cannot use the broker {url}"));
        }
        // What a client library says of its address may hold the password too.
        connected.map_err(|error| {
            let (kind, text) = (error.kind(), hide(&format!("cannot use the broker {url}: {error}"), &secrets));
            if kind == brigade::ErrorKind::BadOption { usage(text) } else { anyhow::anyhow!(text) }
        })
    }
}

/// The file of a user who named none; its directory is made, for this user alone.
fn default_url() -> anyhow::Result<String> {
    let directory = data_directory(env::var_os("XDG_DATA_HOME").map(PathBuf::from), env::home_dir())
        .ok_or_else(|| usage("no home directory to keep the jobs in: name a broker with --broker or BRIGADE_URL"))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let file = directory.join("jobs.db");
    match file.to_str() {
        Some(path) if !path.contains('?') => Ok(format!("sqlite:{path}")),
        _ => Err(usage(format!("{} cannot be written as a URL: name a broker with --broker or BRIGADE_URL", file.display()))),
    }
}

/// By the XDG base directory specification, which has relative paths ignored.
fn data_directory(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let is_given = |path: &PathBuf| path.is_absolute();
    let base = xdg.filter(is_given).or_else(|| home.filter(is_given).map(|home| home.join(Path::new(".local/share"))));
    base.map(|base| base.join("brigade"))
}

/// What in a URL nobody may read: the password of `scheme://user:password@host`, and options that look like one.
fn secrets(url: &str) -> Vec<&str> {
    let mut secrets = Vec::new();
    let (address, options) = url.split_once('?').unwrap_or((url, ""));
    if let Some((_, rest)) = address.split_once("://")
        && let Some((user, _)) = rest.rsplit_once('@')
        && let Some((_, password)) = user.split_once(':')
    {
        secrets.push(password);
    }
    for (name, value) in options.split('&').filter_map(|option| option.split_once('=')) {
        if ["pass", "secret", "token"].iter().any(|word| name.to_ascii_lowercase().contains(word)) {
            secrets.push(value);
        }
    }
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

fn hide(text: &str, secrets: &[&str]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        let hidden = |url: &str| hide(url, &secrets(url));
        assert_eq!(hidden("amqp://me:s3:cr@t@host/x"), "amqp://me:***@host/x");
        assert_eq!(hidden("redis://:geheim@host"), "redis://:***@host");
        assert_eq!(hidden("redis://host/0?password=geheim&a=b"), "redis://host/0?password=***&a=b");
        assert_eq!(hidden("sqlite:a@b:c.db?synchronous=full"), "sqlite:a@b:c.db?synchronous=full");
    }

    #[test]
    fn the_data_directory_is_an_absolute_one() {
        let home = || Some(PathBuf::from("/house/me"));
        assert_eq!(data_directory(None, home()), Some("/house/me/.local/share/brigade".into()));
        assert_eq!(data_directory(Some("/data".into()), home()), Some("/data/brigade".into()));
        assert_eq!(data_directory(Some("data".into()), home()), Some("/house/me/.local/share/brigade".into()));
        assert_eq!(data_directory(None, None), None);
    }
}
