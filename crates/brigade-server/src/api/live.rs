//! `/livez`: whether this process answers, and can.

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;

use crate::app::App;
use crate::problem::Problem;

/// Whether the server answers
///
/// It does not ask the broker: a server whose broker is away must not be restarted for it. It fails
/// only when the connection to the broker has ended for good, which a restart mends.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    responses(
        (status = 200, description = "it does", body = String, content_type = "text/plain", example = "ok\n"),
        (status = 503, description = "its connection to the broker has ended for good", body = crate::problem::ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn live(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    match app.options.ended.is_cancelled() {
        true => Err(Problem::closed()),
        false => Ok(([(CACHE_CONTROL, "no-store")], "ok\n")),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use brigade::Broker;
    use tower_service::Service as _;

    use crate::{Auth, ServerOptions};

    #[tokio::test]
    async fn a_server_whose_broker_has_closed_is_not_alive() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jobs.db");
        let url = format!("sqlite:{}", file.display());
        let broker = Broker::connect(&url).await.unwrap();
        let mut app = crate::router(broker, ServerOptions::new(Auth::none()).any_host());
        let mut status = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            app.call(request).await.unwrap().status()
        };
        assert_eq!(status("/livez").await, StatusCode::OK);
        std::fs::rename(&file, directory.path().join("moved.db")).unwrap();
        assert_eq!(
            status("/v1/queues").await,
            StatusCode::SERVICE_UNAVAILABLE,
            "its file was moved"
        );
        assert_eq!(status("/livez").await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
