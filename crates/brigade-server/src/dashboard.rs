//! The dashboard: pages for people, on the same broker as the API.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

use crate::app::App;

/// The pages and their files.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/", get(home))
}

async fn home() -> Html<&'static str> {
    Html(
        "<!doctype html><title>Brigade</title><h1>Brigade</h1><p>The API is described by <a href=\"openapi.json\">openapi.json</a>.</p>",
    )
}
