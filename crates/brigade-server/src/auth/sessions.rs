//! [`Sessions`]: people who gave their token to the form of the dashboard.
//!
//! A session is random text in a cookie that scripts cannot read. The server keeps the hash of that
//! text with the roles of the token, in memory only: a restart ends all sessions. Their number and
//! their time are bounded.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::principal::Principal;
use super::secret::{SecretHash, random_text};

/// The most sessions at once; the oldest ends for a new one.
const SESSIONS_MAX: usize = 1_000;
/// A session ends after this time, whatever happens in it.
const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);

#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Vec<OpenSession>>);

#[derive(Debug)]
struct OpenSession {
    hash: SecretHash,
    principal: Principal,
    ends: Instant,
}

impl Sessions {
    /// Begins a session and gives the text of its cookie.
    pub(crate) fn begin(&self, principal: Principal) -> std::io::Result<String> {
        let secret = random_text()?;
        let now = Instant::now();
        let session = OpenSession {
            hash: SecretHash::of(&secret),
            principal,
            ends: now + SESSION_TIME,
        };
        let mut sessions = self.lock();
        sessions.retain(|session| session.ends > now);
        if sessions.len() >= SESSIONS_MAX {
            sessions.remove(0);
        }
        sessions.push(session);
        Ok(secret)
    }

    /// Whose session this is.
    pub(crate) fn find(&self, secret: &str) -> Option<Principal> {
        let (hash, now) = (SecretHash::of(secret), Instant::now());
        let sessions = self.lock();
        let mut sessions = sessions.iter();
        let found = sessions.find(|session| session.ends > now && session.hash.matches(&hash));
        found.map(|session| session.principal.clone())
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

    #[test]
    fn a_session_is_found_until_it_ends() {
        let sessions = Sessions::default();
        let cookie = sessions.begin(Principal::anyone()).unwrap();
        assert!(sessions.find(&cookie).is_some());
        assert!(sessions.find("other").is_none());
        sessions.end(&cookie);
        assert!(sessions.find(&cookie).is_none());
    }

    #[test]
    fn the_oldest_session_ends_for_one_too_many() {
        let sessions = Sessions::default();
        let first = sessions.begin(Principal::anyone()).unwrap();
        let second = sessions.begin(Principal::anyone()).unwrap();
        for _ in 0..SESSIONS_MAX - 1 {
            sessions.begin(Principal::anyone()).unwrap();
        }
        assert!(sessions.find(&first).is_none());
        assert!(sessions.find(&second).is_some());
    }
}
