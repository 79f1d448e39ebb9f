//! [`Acting`] and [`Sent`]: who acts, and the form that was sent.
//!
//! A handler of an action has `Acting` as its first argument: it refuses those without the role
//! before the body is read. Then comes `Sent`, if there is a form: it is read within a time, and
//! has at most [`FORM_BYTES_MAX`]. Both refuse with a page.

use std::marker::PhantomData;

use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::shell::{Failed, back};
use super::viewer::Viewer;
use super::watch::BrokerWatch;
use crate::app::App;
use crate::auth::Role;

/// The most bytes of a form.
pub(super) const FORM_BYTES_MAX: usize = 1 << 20;

/// The role that an action needs.
pub(super) trait Needed {
    const ROLE: Role;
}

/// Changes the jobs of others.
pub(super) struct Changes;
/// Pushes a job.
pub(super) struct PushesJobs;
/// Looks closer.
pub(super) struct Reads;

impl Needed for Changes {
    const ROLE: Role = Role::Admin;
}

impl Needed for PushesJobs {
    const ROLE: Role = Role::Push;
}

impl Needed for Reads {
    const ROLE: Role = Role::Read;
}

/// What every action has, of a viewer who may do it.
pub(super) struct Acting<N = Changes> {
    pub(super) viewer: Viewer,
    pub(super) app: App,
    pub(super) watch: BrokerWatch,
    needs: PhantomData<fn() -> N>,
}

impl<N: Needed> FromRequestParts<App> for Acting<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let viewer = Viewer::from_request_parts(parts, app).await?;
        let watch = watch_of(parts, app);
        if !viewer.has(N::ROLE) {
            let snapshot = watch.look(&app.broker).await;
            return Err(Failed::Role(N::ROLE.name()).page(&viewer, &snapshot));
        }
        Ok(Self {
            viewer,
            app: app.clone(),
            watch,
            needs: PhantomData,
        })
    }
}

fn watch_of(parts: &Parts, app: &App) -> BrokerWatch {
    let watch = parts.extensions.get::<BrokerWatch>().cloned();
    watch.unwrap_or_else(|| BrokerWatch::new(app.options.ended.clone()))
}

impl<N> Acting<N> {
    /// Answers with the page after the action, or with what was wrong.
    pub(super) async fn answer(&self, outcome: Result<String, Failed>) -> Response {
        // An error of the broker may come after a change.
        if matches!(outcome, Ok(_) | Err(Failed::Broker(_))) {
            self.watch.changed();
        }
        match outcome {
            Ok(path) => back(&self.viewer, &path),
            Err(failed) => {
                let snapshot = self.watch.look(&self.app.broker).await;
                failed.page(&self.viewer, &snapshot)
            }
        }
    }

    pub(super) fn log(&self, did: &str, name: &str) {
        tracing::info!(by = %self.viewer.name, did, name, "an action from the dashboard");
    }
}

/// The form that was sent.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for Sent<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let viewer = Viewer::from_request_parts(&mut parts, app).await?;
        let watch = watch_of(&parts, app);
        let time = app.options.body_time;
        let form = Form::<T>::from_request(Request::from_parts(parts, body), app);
        let failed = match timeout(time, form).await {
            Ok(Ok(Form(form))) => return Ok(Self(form)),
            Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Failed::Body(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "The form has more than {} KiB. The command line and the API take more.",
                    FORM_BYTES_MAX >> 10
                ),
            ),
            Ok(Err(error)) => Failed::Body(error.status(), error.body_text()),
            Err(_) => Failed::Body(
                StatusCode::REQUEST_TIMEOUT,
                format!("The form did not arrive within {time:?}."),
            ),
        };
        let snapshot = watch.look(&app.broker).await;
        Err(failed.page(&viewer, &snapshot))
    }
}
