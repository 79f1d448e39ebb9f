//! `/login` and `/logout`: sessions of people.
//!
//! The form takes a token and gives a cookie that scripts cannot read and that other sites cannot
//! have sent. The token itself is not kept, and wrong ones count as those of requests do. The page
//! after the form is always one of this server.

use axum::extract::{DefaultBodyLimit, FromRequest as _, OriginalUri, Query, Request, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;
use tokio::time::timeout;

use crate::app::App;
use crate::auth::{AuthKind, SecretHash};
use crate::dashboard::login_page;
use crate::identify::{session_cookie, session_of, wanted_by_the_user, wrong_token};
use crate::peer::peer_of;
use crate::problem::Problem;

/// The most bytes of the form: no credential is known when it is read.
const FORM_BYTES_MAX: usize = 8 << 10;

/// The routes of sessions.
pub(crate) fn routes() -> Router<App> {
    let form = get(form).post(login);
    Router::new()
        .route("/login", form.layer(DefaultBodyLimit::max(FORM_BYTES_MAX)))
        .route("/logout", post(logout))
}

/// Where to go after the form.
#[derive(Default, Deserialize)]
struct Destination {
    #[serde(default)]
    next: String,
}

/// What the form sends.
#[derive(Deserialize)]
struct LoginForm {
    #[serde(default)]
    token: String,
    #[serde(default)]
    next: String,
}

async fn form(uri: OriginalUri, Query(to): Query<Destination>) -> Response {
    page(&base_of(&uri, "/login"), &to.next, None)
}

async fn login(State(app): State<App>, uri: OriginalUri, request: Request) -> Response {
    let base = base_of(&uri, "/login");
    if let Err(problem) = wanted_by_the_user(&request, true) {
        return problem.into_response();
    }
    let peer = peer_of(&request);
    let is_secure = app.options.is_secure;
    let before = session_of(request.headers(), session_cookie(&base, is_secure));
    let before = before.map(ToOwned::to_owned);
    let sent = match read_form(request, &app).await {
        Ok(sent) => sent,
        Err(problem) => return problem.into_response(),
    };
    let token = sent.token.trim();
    let is_wrong = match &app.options.auth.0 {
        AuthKind::None => false,
        AuthKind::Tokens(tokens) => tokens.get().find(token).is_none(),
    };
    if is_wrong {
        let problem = wrong_token(&app, peer);
        return page(&base, &sent.next, Some(&problem));
    }
    if let Some(before) = before {
        app.sessions.end(&before);
    }
    match app.sessions.begin(SecretHash::of(token)) {
        Ok(secret) => redirect(&to(&base, &sent.next), &cookie(&base, &secret, is_secure)),
        Err(error) => Problem::internal(format!("cannot begin a session: {error}")).into_response(),
    }
}

async fn read_form(request: Request, app: &App) -> Result<LoginForm, Problem> {
    match timeout(app.options.body_time, Form::from_request(request, app)).await {
        Ok(Ok(Form(form))) => Ok(form),
        Ok(Err(error)) => Err(Problem::bad_request(error.body_text())),
        Err(_) => Err(Problem::bad_request("the form did not arrive in time")),
    }
}

async fn logout(State(app): State<App>, uri: OriginalUri, headers: HeaderMap) -> Response {
    let base = base_of(&uri, "/logout");
    let cookie_name = session_cookie(&base, app.options.is_secure);
    if let Some(secret) = session_of(&headers, cookie_name) {
        app.sessions.end(secret);
    }
    let gone = format!("{}; Max-Age=0", cookie(&base, "", app.options.is_secure));
    redirect(&format!("{base}/login"), &gone)
}

fn cookie(base: &str, secret: &str, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    let name = session_cookie(base, is_secure);
    format!("{name}={secret}; Path={base}/; HttpOnly; SameSite=Strict{secure}")
}

/// Sees other: a reload of the page that follows does not send the form again.
fn redirect(location: &str, cookie: &str) -> Response {
    let headers = [(LOCATION, location), (SET_COOKIE, cookie)];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// The prefix that the router is mounted under, without a slash at its end.
fn base_of(uri: &Uri, path: &str) -> String {
    uri.path().strip_suffix(path).unwrap_or_default().to_owned()
}

/// A path of this server to go to: any other text is the start page.
fn to(base: &str, next: &str) -> String {
    let is_path = next.starts_with('/')
        && !next.starts_with("//")
        && next.starts_with(base)
        && next
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    match is_path {
        true => next.to_owned(),
        false => format!("{base}/"),
    }
}

/// The form.
fn page(base: &str, next: &str, problem: Option<&Problem>) -> Response {
    let status = problem.map_or(StatusCode::OK, Problem::status);
    login_page(status, base, next, problem.map(Problem::detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_leads_only_to_pages_of_this_server() {
        assert_eq!(to("", "/queues?state=dead"), "/queues?state=dead");
        assert_eq!(to("/jobs", "/jobs/queues"), "/jobs/queues");
        for other in [
            "//evil.example",
            "https://evil.example",
            "/\\evil",
            "",
            "/a\r\nb",
            "evil",
        ] {
            assert_eq!(to("", other), "/", "{other:?}");
        }
        assert_eq!(to("/jobs", "/elsewhere"), "/jobs/");
    }
}
