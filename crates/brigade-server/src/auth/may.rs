//! [`May`]: the extractor by which a handler says which role it needs.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::principal::Principal;
use super::roles::Role;
use crate::problem::Problem;

/// The principal of a request that has one of the roles of `N`. As the first argument of a handler,
/// it refuses all others before the body is read.
pub(crate) struct May<N> {
    pub(crate) principal: Principal,
    needs: PhantomData<N>,
}

/// Roles of which a handler needs one.
pub(crate) trait Needs {
    const ANY_OF: &[Role];
}

/// Needs [`Role::Read`].
pub(crate) struct NeedsRead;
/// Needs [`Role::Push`].
pub(crate) struct NeedsPush;
/// Needs [`Role::Work`].
pub(crate) struct NeedsWork;
/// Needs [`Role::Admin`].
pub(crate) struct NeedsAdmin;
/// Needs any role: one job is looked at by its id.
pub(crate) struct NeedsAny;

impl Needs for NeedsRead {
    const ANY_OF: &[Role] = &[Role::Read];
}

impl Needs for NeedsPush {
    const ANY_OF: &[Role] = &[Role::Push];
}

impl Needs for NeedsWork {
    const ANY_OF: &[Role] = &[Role::Work];
}

impl Needs for NeedsAdmin {
    const ANY_OF: &[Role] = &[Role::Admin];
}

impl Needs for NeedsAny {
    const ANY_OF: &[Role] = &[Role::Read, Role::Push, Role::Work];
}

impl<N: Needs, S: Sync> FromRequestParts<S> for May<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let principal = parts.extensions.get::<Principal>();
        let principal = principal.ok_or_else(Problem::no_credential)?;
        if !N::ANY_OF.iter().any(|role| principal.roles.allow(*role)) {
            return Err(Problem::wrong_role(principal, N::ANY_OF));
        }
        Ok(Self {
            principal: principal.clone(),
            needs: PhantomData,
        })
    }
}
