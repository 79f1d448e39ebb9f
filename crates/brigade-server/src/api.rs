//! The routes of the API, a file for each concept.
//!
//! A handler says with its first argument which role it needs ([`May`](crate::auth::May)), and with
//! its annotation what it takes and gives, of which the OpenAPI document is made. It asks the
//! broker once where it can, and keeps nothing between requests.

mod calls;
mod consumers;
mod events;
mod flows;
mod health;
mod jobs;
mod leases;
mod live;
mod new_job;
mod push;
mod queues;
mod responses;
mod schedules;
mod statistics;
mod take;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::responses::CommonProblems;
use crate::app::App;
use crate::metrics;
use crate::problem::ProblemDocument;

/// The document without the paths, which the handlers add.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Brigade",
        description = "Push jobs, take and settle them, call tasks, look at queues.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(ProblemDocument)),
    modifiers(&Credential),
    tags(
        (name = "jobs", description = "Single jobs and lists of them"),
        (name = "work", description = "Take and lease jobs, and settle leases"),
        (name = "calls", description = "Calls of tasks"),
        (name = "schedules", description = "Jobs that are pushed by the clock"),
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
        .merge(of_jobs())
        .merge(of_work())
        .merge(of_queues())
        .merge(of_schedules())
        .merge(of_health())
}

fn of_jobs() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(push::push))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::look, jobs::delete))
        .routes(routes!(jobs::why))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(flows::push))
        .routes(routes!(flows::look))
        .routes(routes!(calls::call))
        .routes(routes!(events::stream))
}

fn of_work() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(take::take))
        .routes(routes!(take::lease))
        .routes(routes!(take::lease_many))
        .routes(routes!(leases::ack))
        .routes(routes!(leases::nack))
        .routes(routes!(leases::pass))
        .routes(routes!(leases::give_back))
        .routes(routes!(leases::dead_letter))
        .routes(routes!(leases::cancelled))
        .routes(routes!(leases::extend))
        .routes(routes!(leases::progress))
}

fn of_queues() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(queues::list))
        .routes(routes!(queues::look))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::purge))
        .routes(routes!(queues::limit, queues::unlimit))
        .routes(routes!(health::scale))
        .routes(routes!(consumers::consumers))
        .routes(routes!(consumers::dead))
        .routes(routes!(statistics::list))
}

fn of_schedules() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::set, schedules::remove))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
}

fn of_health() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(live::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::health))
        .routes(routes!(consumers::check))
        .routes(routes!(metrics::metrics))
}
