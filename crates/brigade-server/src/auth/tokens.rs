//! [`Tokens`]: the bearer tokens of a server, hashed.
//!
//! A token file has a line for each: its name, its roles, its hash. It holds no secret, so a copy
//! of it in a backup opens no door. Comments begin with `#`. A value of this type never changes:
//! a server that reads its file again gets another one ([`Auth`](super::Auth)).

use std::fmt::Write as _;
use std::sync::Arc;

use super::principal::Principal;
use super::roles::Roles;
use super::secret::{SecretHash, random_text};

/// Tokens with their roles.
///
/// ```
/// use brigade_server::{NewToken, Tokens};
///
/// let token = NewToken::generate("mailer", "push,work".parse()?)?;
/// // For the file of the server; the token itself goes to the program that uses it.
/// let tokens = Tokens::read(&format!("# name roles hash\n{}", token.line()))?;
/// assert!(token.token().starts_with("brigade_"));
/// # drop(tokens); Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<KnownToken>);

#[derive(Clone, Debug)]
struct KnownToken {
    principal: Principal,
    hash: SecretHash,
}

/// A token that was made just now, the only time that its text is known.
#[derive(Clone)]
pub struct NewToken {
    token: String,
    name: String,
    roles: Roles,
}

const HASH_PREFIX: &str = "sha256:";
/// What tokens begin with, so that scanners for leaked secrets find them.
const TOKEN_PREFIX: &str = "brigade_";
const TOKENS_MAX: usize = 10_000;

impl Tokens {
    /// The tokens of a token file: lines of `NAME ROLES sha256:HASH`, for example
    /// `mailer push,work sha256:9f86d0..`.
    ///
    /// # Errors
    ///
    /// A text that names the line and what it should be.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut tokens = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = read_line(line).map_err(|problem| format!("line {number}: {problem}"))?;
            if tokens
                .0
                .iter()
                .any(|other| other.principal.name == token.principal.name)
            {
                let name = &token.principal.name;
                return Err(format!("line {number}: there is a token {name:?} already"));
            }
            tokens.0.push(token);
            if tokens.0.len() > TOKENS_MAX {
                return Err(format!("there are more than {TOKENS_MAX} tokens"));
            }
        }
        Ok(tokens)
    }

    /// Adds a token by its text, for example one of a file of its own.
    pub fn add(&mut self, name: &str, roles: Roles, token: &str) {
        self.0.push(KnownToken {
            principal: Principal {
                name: name.into(),
                roles,
            },
            hash: SecretHash::of(token),
        });
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token this is. The time that it takes says nothing about the tokens.
    pub(crate) fn find(&self, token: &str) -> Option<Principal> {
        self.find_hash(&SecretHash::of(token))
    }

    /// Whose token has this hash.
    pub(crate) fn find_hash(&self, hash: &SecretHash) -> Option<Principal> {
        let mut found = None;
        for known in &self.0 {
            if known.hash.matches(hash) {
                found = Some(known);
            }
        }
        found.map(|known| known.principal.clone())
    }
}

fn read_line(line: &str) -> Result<KnownToken, String> {
    let expected = || "expected NAME ROLES sha256:HASH, as `brigade token` writes it".to_owned();
    let mut words = line.split_whitespace();
    let (Some(name), Some(roles), Some(hash), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(expected());
    };
    let hash = hash.strip_prefix(HASH_PREFIX).and_then(SecretHash::read);
    Ok(KnownToken {
        principal: Principal {
            name: Arc::from(name),
            roles: roles.parse()?,
        },
        hash: hash.ok_or_else(expected)?,
    })
}

impl NewToken {
    /// Makes a token of 256 random bits.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name that is empty or has blanks; the system's, if it has no random
    /// numbers.
    pub fn generate(name: &str, roles: Roles) -> std::io::Result<Self> {
        if name.is_empty() || name.starts_with('#') || name.contains(char::is_whitespace) {
            let text = format!("{name:?} is no name of a token: it is one word");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            token: format!("{TOKEN_PREFIX}{}", random_text()?),
            name: name.to_owned(),
            roles,
        })
    }

    /// The token, for the program that uses it.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Its line for a token file, with a line break.
    pub fn line(&self) -> String {
        let mut line = String::new();
        let hash = SecretHash::of(&self.token).hex();
        // Writing to a string does not fail.
        writeln!(line, "{} {} {HASH_PREFIX}{hash}", self.name, self.roles).ok();
        line
    }
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    #[test]
    fn a_generated_token_is_found_by_its_line() {
        let one = NewToken::generate("mailer", "push".parse().unwrap()).unwrap();
        let two = NewToken::generate("boss", "admin".parse().unwrap()).unwrap();
        let file = format!("# the tokens\n\n{}  {}", one.line(), two.line());
        assert!(!file.contains(one.token()));
        let tokens = Tokens::read(&file).unwrap();
        let found = tokens.find(one.token()).unwrap();
        assert_eq!(&*found.name, "mailer");
        assert!(found.roles.allow(Role::Push) && !found.roles.allow(Role::Work));
        assert_eq!(&*tokens.find(two.token()).unwrap().name, "boss");
        for wrong in [
            "",
            "mailer",
            &one.token()[1..],
            &format!("{}x", one.token()),
        ] {
            assert!(tokens.find(wrong).is_none());
        }
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let hash = "0".repeat(64);
        for (file, expected) in [
            ("\nann admin", "line 2: expected NAME ROLES"),
            ("ann boss sha256:00", "unknown role \"boss\""),
            ("ann admin sha256:00", "line 1: expected"),
            (&format!("ann admin md5:{hash}"), "line 1: expected"),
            (
                &format!("a read sha256:{hash}\na push sha256:{hash}"),
                "line 2: there is a token \"a\"",
            ),
        ] {
            let error = Tokens::read(file).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
