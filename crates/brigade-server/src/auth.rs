//! Credentials: who sent a request, and what they may do.
//!
//! The middleware `identify` runs before every handler. It turns the credential of a request into a
//! [`Principal`] in the request's extensions, and refuses one that is wrong. A request without a
//! credential goes on without a principal: handlers say with [`May`] which role they need, and that
//! extractor refuses requests without a principal (401) and those that lack the role (403).
//!
//! Pages for people look for the principal themselves, since they answer with a form for the token
//! in place of a problem document.

mod may;
mod roles;

use std::sync::Arc;

pub(crate) use self::may::{May, NeedsAdmin, NeedsAny, NeedsPush, NeedsRead, NeedsWork};
pub use self::roles::{Role, Roles};

/// Which credentials a server wants.
#[derive(Clone, Debug)]
pub struct Auth(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    None,
}

impl Auth {
    /// No credential: every request may do everything. Only for a listener that no one else can
    /// reach, or behind a layer of yours that checks requests.
    pub fn none() -> Self {
        Self(Kind::None)
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// The name of the token; for the access log and for the reasons of cancels.
    pub(crate) name: Arc<str>,
    pub(crate) roles: Roles,
}
