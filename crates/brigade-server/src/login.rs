//! `/login` and `/logout`: sessions of people.
//!
//! The form takes a token and gives a cookie that scripts cannot read and that other sites cannot
//! have sent. The token itself is not kept, and wrong ones count as those of requests do. The page
//! after the form is always one of this server.

use axum::extract::{FromRequest as _, OriginalUri, Query, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;
use tokio::time::timeout;

use crate::app::App;
use crate::auth::{AuthKind, Principal};
use crate::identify::{SESSION_COOKIE, peer_of, session_of, wanted_by_the_user, wrong_token};
use crate::problem::Problem;

/// The routes of sessions.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/login", get(form).post(login))
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
    let sent = match read_form(request, &app).await {
        Ok(sent) => sent,
        Err(problem) => return problem.into_response(),
    };
    let principal = match &app.options.auth.0 {
        AuthKind::None => Some(Principal::anyone()),
        AuthKind::Tokens(tokens) => tokens.find(sent.token.trim()),
    };
    let Some(principal) = principal else {
        let problem = wrong_token(&app, peer);
        return page(&base, &sent.next, Some(&problem));
    };
    match app.sessions.begin(principal) {
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
    if let Some(secret) = session_of(&headers) {
        app.sessions.end(secret);
    }
    let gone = format!("{}; Max-Age=0", cookie(&base, "", app.options.is_secure));
    redirect(&format!("{base}/login"), &gone)
}

fn cookie(base: &str, secret: &str, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={secret}; Path={base}/; HttpOnly; SameSite=Strict{secure}")
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
    let (status, text) = match problem {
        None => (StatusCode::OK, String::new()),
        Some(problem) => (
            problem.status(),
            format!("<p role=\"alert\">{}</p>", escaped(problem.detail())),
        ),
    };
    let (base, next) = (escaped(base), escaped(next));
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
            content=\"width=device-width\"><title>Brigade</title><h1>Brigade</h1>{text}\
            <form method=\"post\" action=\"{base}/login\"><input type=\"hidden\" name=\"next\" \
            value=\"{next}\"><label>Token <input name=\"token\" type=\"password\" \
            autocomplete=\"current-password\" required autofocus></label> <button>Sign in</button>\
            </form></html>"
    );
    let policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    (status, [(CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter => html.push(letter),
        }
    }
    html
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
