//! `/openapi.json`: the description of the API, made from the handlers' own annotations.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::OpenApi;

use crate::app::App;

/// Serves the document, which is written once.
pub(crate) fn routes(document: OpenApi) -> Router<App> {
    let text = Bytes::from(document.to_json().unwrap_or_default());
    let serve = move || {
        let text = text.clone();
        async move { ([(CONTENT_TYPE, "application/json")], text).into_response() }
    };
    Router::new().route("/openapi.json", get(serve))
}
