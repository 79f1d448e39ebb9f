//! Credentials: which there are, and what they allow.
//!
//! [`Auth`] decides for a whole server. The middleware `guard` runs before every handler. It turns
//! the credential of a request into a [`Principal`] in the request's extensions, and refuses one
//! that is wrong. A request without a credential goes on without a principal: handlers say with
//! [`May`] which role they need, and that extractor refuses requests without a principal (401) and
//! those that lack the role (403).
//!
//! Pages for people look for the principal themselves, since they answer with a form for the token
//! in place of a problem document.

mod failures;
mod may;
mod principal;
mod roles;
mod secret;
mod sessions;
mod tokens;

use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use self::failures::FailedLogins;
pub(crate) use self::may::{May, NeedsAdmin, NeedsAny, NeedsPush, NeedsRead, NeedsWork};
pub(crate) use self::principal::Principal;
pub use self::roles::{Role, Roles};
pub(crate) use self::secret::{SecretHash, random_text};
pub(crate) use self::sessions::Sessions;
pub use self::tokens::{NewToken, Tokens};

/// Which credentials a server wants.
#[derive(Clone, Debug)]
pub struct Auth(pub(crate) AuthKind);

#[derive(Clone, Debug)]
pub(crate) enum AuthKind {
    None,
    Tokens(CurrentTokens),
}

/// The tokens that a server knows now; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct CurrentTokens(Arc<RwLock<Arc<Tokens>>>);

impl CurrentTokens {
    pub(crate) fn get(&self) -> Arc<Tokens> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Auth {
    /// No credential: every request may do everything. Only for a listener that no one else can
    /// reach, or behind a layer of yours that checks requests. Requests that a browser sends on
    /// behalf of another site are refused nevertheless, and so is a `Host` other than an address,
    /// `localhost` and those of [`ServerOptions::hosts`](crate::ServerOptions::hosts).
    pub fn none() -> Self {
        Self(AuthKind::None)
    }

    /// One of these tokens: in the header `Authorization: Bearer TOKEN`, or in a session of the
    /// dashboard, which begins with a form for the token.
    pub fn tokens(tokens: Tokens) -> Self {
        let tokens = Arc::new(RwLock::new(Arc::new(tokens)));
        Self(AuthKind::Tokens(CurrentTokens(tokens)))
    }

    /// Changes the tokens of this and all its clones, so of every router that has one. It holds
    /// from the next request on: a token that is gone opens nothing any more, and the sessions that
    /// began with it have ended; one with other roles has these at once. Does nothing for
    /// [`Auth::none`].
    pub fn replace_tokens(&self, tokens: Tokens) {
        if let AuthKind::Tokens(current) = &self.0 {
            *current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
        }
    }
}
