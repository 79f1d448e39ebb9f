//! HTTP API, dashboard, health and metrics of a broker's queues.
//!
//! [`router`] makes an axum [`Router`](axum::Router) of a [`Broker`]: mount it in a program of
//! yours with `nest`, or run `brigade serve`. The router holds no state of a job. Every answer
//! comes from the broker, so several servers may serve one broker, and a lease that was handed out
//! over HTTP survives a restart of the server (on RabbitMQ a lease ends with the server's
//! connection).
//!
//! ```no_run
//! # async fn example(broker: brigade::Broker) -> std::io::Result<()> {
//! use brigade_server::{Auth, ServerOptions};
//!
//! // No credential: only for a listener that no one else can reach. Requests for another name than
//! // an address or `localhost` are refused then, as pages of other sites make them.
//! let queues = brigade_server::router(broker, ServerOptions::new(Auth::none()));
//! let app = axum::Router::new().nest("/jobs", queues);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7420").await?;
//! axum::serve(listener, app).await
//! # }
//! ```
//!
//! | part | where |
//! |---|---|
//! | API | `/v1/..`, described by `/openapi.json` |
//! | dashboard | `/` |
//! | probes | `/livez` |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod api;
mod app;
mod auth;
mod counters;
mod dashboard;
mod document;
mod extract;
mod flow;
mod guard;
mod http_consumers;
mod identify;
mod leftover;
mod login;
mod metrics;
mod options;
mod peer;
mod problem;
mod queue_sets;
mod serve;
mod values;
mod wait;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use brigade::Broker;

pub use auth::{Auth, NewToken, Role, Roles, Tokens};
pub use options::ServerOptions;
pub use serve::Server;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use serve::ServerTls;

use crate::app::App;

/// The API and the dashboard of a broker.
///
/// The routes are relative, so the router works under any prefix.
pub fn router(broker: Broker, options: ServerOptions) -> axum::Router {
    let app = App::new(broker, options);
    let (api, document) = api::routes().split_for_parts();
    api.merge(document::routes(document))
        .merge(login::routes())
        .merge(dashboard::routes(&app.options.ended))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        // The first is the outermost. Together, because each `layer` costs every request.
        .layer((
            from_fn_with_state(app.clone(), guard::guard),
            from_fn(guard::trace),
            from_fn_with_state(app.clone(), leftover::discard),
            DefaultBodyLimit::max(app.options.body_bytes_max),
        ))
        .with_state(app)
}
