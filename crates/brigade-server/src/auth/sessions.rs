//! [`Sessions`]: people who gave their token to the form of the dashboard.
//!
//! A session is random text in a cookie that scripts cannot read. The server keeps the hash of that
//! text with the hash of the token, in memory only: a restart ends all sessions, and so does the
//! end of their token. Their number and their time are bounded, their number also for each token,
//! so that no one can end the sessions of others with many of their own.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::principal::Principal;
use super::secret::{SecretHash, random_text};
use super::tokens::Tokens;

/// The most sessions at once; the oldest ends for a new one.
const SESSIONS_MAX: usize = 1_000;
/// The most sessions of one token.
const TOKEN_SESSIONS_MAX: usize = 20;
/// A session ends after this time, whatever happens in it.
const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);

#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Vec<OpenSession>>);

#[derive(Debug)]
struct OpenSession {
    hash: SecretHash,
    token: SecretHash,
    ends: Instant,
}

impl Sessions {
    /// Begins a session with this token and gives the text of its cookie.
    pub(crate) fn begin(&self, token: SecretHash) -> std::io::Result<String> {
        let secret = random_text()?;
        let now = Instant::now();
        let session = OpenSession {
            hash: SecretHash::of(&secret),
            token,
            ends: now + SESSION_TIME,
        };
        let mut sessions = self.lock();
        sessions.retain(|session| session.ends > now);
        let own = |session: &OpenSession| session.token.matches(&token);
        let count = sessions.iter().filter(|session| own(session)).count();
        if count >= TOKEN_SESSIONS_MAX
            && let Some(oldest) = sessions.iter().position(own)
        {
            sessions.remove(oldest);
        }
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
        sessions.push(session);
        Ok(secret)
    }

    /// Whose session this is, by the tokens that there are now.
    pub(crate) fn find(&self, secret: &str, tokens: &Tokens) -> Option<Principal> {
        let (hash, now) = (SecretHash::of(secret), Instant::now());
        let sessions = self.lock();
        let mut sessions = sessions.iter();
        let found = sessions.find(|session| session.ends > now && session.hash.matches(&hash))?;
        tokens.find_hash(&found.token)
    }

    /// Ends a session, if it is one.
    pub(crate) fn end(&self, secret: &str) {
        let hash = SecretHash::of(secret);
        self.lock().retain(|session| !session.hash.matches(&hash));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OpenSession>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Roles;

    /// Tokens of these names, whose text is the name.
    fn tokens(names: &[&str]) -> Tokens {
        let mut tokens = Tokens::default();
        for name in names {
            tokens.add(name, Roles::all(), name);
        }
        tokens
    }

    fn begin(sessions: &Sessions, token: &str) -> String {
        sessions.begin(SecretHash::of(token)).unwrap()
    }

    #[test]
    fn a_session_is_found_until_it_or_its_token_ends() {
        let (sessions, both) = (Sessions::default(), tokens(&["ann", "bob"]));
        let (ann, bob) = (begin(&sessions, "ann"), begin(&sessions, "bob"));
        let name = |secret: &str, tokens: &Tokens| {
            sessions
                .find(secret, tokens)
                .map(|principal| principal.name.to_string())
        };
        assert_eq!(name(&ann, &both).as_deref(), Some("ann"));
        assert_eq!(name("other", &both), None);
        let without_ann = tokens(&["bob"]);
        assert_eq!(name(&ann, &without_ann), None);
        assert_eq!(name(&bob, &without_ann).as_deref(), Some("bob"));
        sessions.end(&bob);
        assert_eq!(name(&bob, &both), None);
    }

    #[test]
    fn a_token_with_many_sessions_ends_its_own_oldest_and_no_other() {
        let (sessions, both) = (Sessions::default(), tokens(&["ann", "bob"]));
        let bob = begin(&sessions, "bob");
        let first = begin(&sessions, "ann");
        let second = begin(&sessions, "ann");
        for _ in 0..TOKEN_SESSIONS_MAX - 1 {
            begin(&sessions, "ann");
        }
        assert!(sessions.find(&first, &both).is_none());
        assert!(sessions.find(&second, &both).is_some());
        for _ in 0..SESSIONS_MAX {
            begin(&sessions, "ann");
        }
        assert!(sessions.find(&bob, &both).is_some());
    }

    #[test]
    fn the_oldest_session_ends_for_one_too_many() {
        let sessions = Sessions::default();
        let names: Vec<String> = (0..=SESSIONS_MAX).map(|n| n.to_string()).collect();
        let all = tokens(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let begun: Vec<String> = names.iter().map(|name| begin(&sessions, name)).collect();
        assert!(sessions.find(&begun[0], &all).is_none());
        assert!(sessions.find(&begun[1], &all).is_some());
    }
}
