//! [`TokenFile`]: the tokens of a server, read at its start and again when the file changes.
//!
//! There are two kinds: a file that `brigade token` writes, with a hash for each token, and the
//! server's own, with one token as it is, made at the first start. A user who can write either of
//! them can give himself every role, so a file that others may write is refused.
//!
//! The file is read again when it may have changed (`watched_files`). One that is broken changes
//! nothing: the known tokens stay.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use brigade_server::{Auth, NewToken, Roles, Tokens};

use super::watched_files::WatchedFiles;
use crate::connection::private_directory;
use crate::exit::usage;
use crate::show::note;

/// The longest file: more than the tokens that a server knows at most.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// The name of the server's own token.
const OWN_NAME: &str = "local";
const OWN_FILE: &str = "server-token";

/// Where the tokens of a server are.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    is_own: bool,
    files: WatchedFiles,
}

impl TokenFile {
    /// A file of `brigade token`.
    pub(super) fn listed(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_own: false,
            files: WatchedFiles::new([path.to_owned()]),
        }
    }

    /// The file of this user's own token, which is made if it is not there.
    pub(super) fn own() -> anyhow::Result<Self> {
        let path = private_directory()?.join(OWN_FILE);
        make_own(&path)
            .with_context(|| format!("cannot make the token file {}", path.display()))?;
        Ok(Self {
            files: WatchedFiles::new([path.clone()]),
            path,
            is_own: true,
        })
    }

    /// The path, if it is the server's own file.
    pub(super) fn own_path(&self) -> Option<&Path> {
        self.is_own.then_some(&*self.path)
    }

    /// Reads the tokens.
    pub(super) fn read(&self) -> anyhow::Result<Tokens> {
        let name = self.path.display();
        if !self.is_own && !self.path.exists() {
            return Err(usage(format!(
                "there is no file {name}: make it with `brigade token {name} NAME ROLES`"
            )));
        }
        let text = read_safe(&self.path)?;
        if self.is_own {
            return own_token(text.trim()).map_err(|problem| usage(format!("{name} {problem}")));
        }
        let tokens = Tokens::read(&text).map_err(|problem| usage(format!("{name}: {problem}")))?;
        if tokens.is_empty() {
            return Err(usage(format!(
                "{name} has no token: add one with `brigade token {name} NAME ROLES`"
            )));
        }
        Ok(tokens)
    }

    /// Gives the server the tokens of the file whenever it may have changed. Never returns.
    pub(super) async fn follow(mut self, auth: &Auth) {
        loop {
            self.files.changed().await;
            let name = self.path.display();
            match self.read() {
                Ok(tokens) => {
                    auth.replace_tokens(tokens);
                    note!("read the tokens in {name} again");
                }
                Err(error) => note!("the tokens stay as they were: {error:#}"),
            }
        }
    }
}

/// The text of a file that no one but its owner may write.
fn read_safe(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let cannot = || format!("cannot read {name}");
    let file = File::open(path).with_context(cannot)?;
    let data = file.metadata().with_context(cannot)?;
    if data.mode() & 0o022 != 0 {
        return Err(usage(format!(
            "{name} can be written by others, who could add tokens: chmod go-w {name}"
        )));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(usage(format!(
            "{name} has more than {FILE_BYTES_MAX} bytes: it is no token file"
        )));
    }
    Ok(text)
}

fn own_token(token: &str) -> Result<Tokens, &'static str> {
    if token.is_empty() {
        return Err("is empty: remove it, and the next start makes a token");
    }
    let mut tokens = Tokens::default();
    tokens.add(OWN_NAME, Roles::all(), token);
    Ok(tokens)
}

/// Makes a file with a new token, if there is none. It is written under another name first, so that
/// neither a crash nor another server that starts at the same time sees half of it.
fn make_own(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let token = NewToken::generate(OWN_NAME, Roles::all())?;
    let draft = path.with_extension(std::process::id().to_string());
    // One of an earlier process of this number that died in between.
    fs::remove_file(&draft).ok();
    let made = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{}", token.token())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            // Another server was first, and its token counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    fs::remove_file(&draft).ok();
    Ok(made?)
}
