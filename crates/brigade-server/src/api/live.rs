//! `/livez`: whether this process answers.

use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;

/// Whether the server answers
///
/// It does not ask the broker: a server whose broker is away must not be restarted for it.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    responses((status = 200, description = "it does", body = String, content_type = "text/plain", example = "ok\n")),
)]
pub(crate) async fn live() -> impl IntoResponse {
    ([(CACHE_CONTROL, "no-store")], "ok\n")
}
