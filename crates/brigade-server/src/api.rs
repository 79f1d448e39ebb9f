//! The routes of the API, a file for each concept.
//!
//! A handler says with its first argument which role it needs ([`May`](crate::auth::May)), and with
//! its annotation what it takes and gives, of which the OpenAPI document is made. It asks the
//! broker once where it can, and keeps nothing between requests.

mod jobs;
mod live;
mod queues;
mod responses;
mod times;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// The document without the paths, which the handlers add.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Brigade",
        description = "Push jobs, take and settle them, call tasks, look at queues.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Credential),
    tags(
        (name = "jobs", description = "Single jobs and lists of them"),
        (name = "queues", description = "Whole queues"),
        (name = "health", description = "Probes and metrics"),
    ),
)]
struct Document;

/// The bearer token.
struct Credential;

impl Modify for Credential {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of the server's token file. An operation names the roles of which the token needs one; `admin` has all of them."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// Every route of the API, with its description.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(live::live))
        .routes(routes!(queues::list))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(jobs::look))
}
