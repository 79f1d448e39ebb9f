//! The form for the token, before a session.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::asset;
use super::shell::status_page;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    base: &'a str,
    assets: String,
    next: &'a str,
    problem: Option<&'a str>,
}

/// The form; `next` is where it leads, `problem` what was wrong with the last try.
pub(crate) fn login_page(
    status: StatusCode,
    base: &str,
    next: &str,
    problem: Option<&str>,
) -> Response {
    let page = LoginPage {
        base,
        assets: format!("{base}/assets/{}", asset::version()),
        next,
        problem,
    };
    status_page(status, &page)
}
