//! The middleware that finds out who sent a request.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::auth::{Kind, Principal, Roles};

/// Puts the [`Principal`] of a request into its extensions.
pub(crate) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match &app.options.auth.0 {
        Kind::None => {
            request.extensions_mut().insert(Principal {
                name: "anyone".into(),
                roles: Roles::all(),
            });
        }
    }
    next.run(request).await
}
