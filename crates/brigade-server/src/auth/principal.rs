//! [`Principal`]: who sent a request.

use std::sync::{Arc, LazyLock};

use super::roles::Roles;

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// The name of the token; for the access log and for the reasons of cancels.
    pub(crate) name: Arc<str>,
    pub(crate) roles: Roles,
}

impl Principal {
    /// Of every request, where no credential is wanted.
    pub(crate) fn anyone() -> Self {
        static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "anyone".into());
        Self {
            name: Arc::clone(&NAME),
            roles: Roles::all(),
        }
    }
}
