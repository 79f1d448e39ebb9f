//! [`PageShell`]: what is around the content of each page, and the answer that a page becomes.
//!
//! Every page has the same headers: a policy without inline script and style, no frames, no cache.
//! For the script of the dashboard, which asks for the content alone, the frame is left out.
//! [`Failed`] is why a page or an action cannot be; it becomes a page with the status that the API
//! has for it.

use std::time::Duration;

use askama::Template;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use brigade::{Error, ErrorKind, JobState};

use super::asset;
use super::notice::Notice;
use super::sentence::Mood;
use super::viewer::Viewer;
use super::watch::Snapshot;
use super::words::{number, span};
use crate::problem::ConnectionEnded;

/// Nothing inline, nothing from elsewhere, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The frame of a page.
pub(super) struct PageShell {
    pub(super) base: String,
    pub(super) title: String,
    /// The entry of the navigation that the page belongs to.
    pub(super) active: &'static str,
    pub(super) assets: String,
    pub(super) is_live: bool,
    pub(super) can_change: bool,
    pub(super) can_push: bool,
    pub(super) viewer: String,
    /// The word of the mood, for the mark in the navigation.
    pub(super) mood: &'static str,
    /// What the mark stands for.
    pub(super) headline: String,
    /// The number of dead letters, if there are any.
    pub(super) dead: Option<String>,
    /// How old the numbers are, if that is worth saying.
    pub(super) stale: Option<String>,
    /// What an action did.
    pub(super) notice: Option<Notice>,
}

impl PageShell {
    /// The frame of a page that shows a snapshot, of which those who may not read see nothing.
    pub(super) fn new(
        viewer: &Viewer,
        active: &'static str,
        title: impl Into<String>,
        snapshot: &Snapshot,
    ) -> Self {
        let known = viewer.can_read().then_some(snapshot);
        let dead = known.map_or(0, |snapshot| snapshot.jobs_in(JobState::Dead));
        let age = known.map_or(Duration::ZERO, |snapshot| snapshot.read.elapsed());
        let first = known.and_then(|snapshot| snapshot.sentences.first());
        Self {
            base: viewer.base.clone(),
            title: title.into(),
            active,
            assets: format!("{}/assets/{}", viewer.base, asset::version()),
            is_live: viewer.is_live,
            can_change: viewer.can_change(),
            can_push: viewer.can_push(),
            viewer: viewer.name.to_string(),
            mood: first.map_or(Mood::Unknown, |first| first.mood).word(),
            headline: first
                .map(super::sentence::Sentence::text)
                .unwrap_or_default(),
            dead: (dead > 0).then(|| number(dead)),
            stale: (age.as_secs() >= 15).then(|| span(age)),
            notice: None,
        }
    }

    /// With what the action before did, which its redirect put into the query.
    pub(super) fn with_notice(mut self, notice: Option<Notice>) -> Self {
        self.notice = notice;
        self
    }
}

/// A page as a response.
pub(super) fn page(template: &impl Template) -> Response {
    status_page(StatusCode::OK, template)
}

pub(super) fn status_page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, headers(), html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page of the dashboard cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ])
}

/// A page that says why there is no other.
#[derive(Template)]
#[template(path = "failed.html")]
struct FailedPage {
    page: PageShell,
    text: String,
    advice: &'static str,
    /// The answer to a form has no address of its own: a `GET` there would be refused.
    can_ask_again: bool,
}

/// Why a page or an action cannot be.
pub(super) enum Failed {
    /// The broker, or what was asked of it.
    Broker(Error),
    /// It is not there (any more).
    Missing(String),
    /// The role of the viewer does not allow it.
    Role(&'static str),
    /// The form was filled in wrongly.
    Form(String),
    /// The form did not arrive, or is none.
    Body(StatusCode, String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Broker(error)
    }
}

impl Failed {
    fn status(&self) -> StatusCode {
        match self {
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Role(_) => StatusCode::FORBIDDEN,
            Self::Form(_) => StatusCode::BAD_REQUEST,
            Self::Body(status, _) => *status,
            Self::Broker(error) => match error.kind() {
                ErrorKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
                ErrorKind::Duplicate => StatusCode::CONFLICT,
                ErrorKind::BadOption | ErrorKind::TooLarge | ErrorKind::Decode => {
                    StatusCode::BAD_REQUEST
                }
                _ if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn words(&self) -> (String, &'static str) {
        match self {
            Self::Broker(error) => {
                let text = match std::error::Error::source(error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                let advice = if error.is_uncertain() {
                    "It may have been carried out nevertheless: look before you try again."
                } else if error.is_retryable() {
                    "Nothing was changed. Try again in a moment."
                } else {
                    "Nothing was changed."
                };
                (text, advice)
            }
            Self::Missing(text) => (text.clone(), ""),
            Self::Role(role) => (
                format!("This needs the role {role}, which your token does not have."),
                "The operator of this server can give you another token; the settings show your roles.",
            ),
            Self::Form(text) | Self::Body(_, text) => {
                (text.clone(), "Nothing was changed. Go back and change it.")
            }
        }
    }

    /// The page that says so.
    pub(super) fn page(&self, viewer: &Viewer, snapshot: &Snapshot) -> Response {
        let (text, advice) = self.words();
        let title = match self {
            Self::Broker(_) => "The broker cannot do that",
            Self::Missing(_) => "Not found",
            Self::Role(_) => "Not allowed",
            Self::Form(_) | Self::Body(..) => "That cannot be done",
        };
        let page = FailedPage {
            page: PageShell::new(viewer, "", title, snapshot),
            text,
            advice,
            can_ask_again: viewer.can_ask_again,
        };
        let mut response = status_page(self.status(), &page);
        if matches!(self, Self::Broker(error) if error.kind() == ErrorKind::Closed) {
            response.extensions_mut().insert(ConnectionEnded);
        }
        response
    }
}

/// After an action: back to a page, which shows what was done.
pub(super) fn back(viewer: &Viewer, path: &str) -> Response {
    Redirect::to(&format!("{}{path}", viewer.base)).into_response()
}
