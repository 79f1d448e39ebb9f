//! Extractors whose refusals are problem documents: path, query and body of a request.
//!
//! axum's own refuse with plain text. A body is read within a time and up to a size
//! ([`ServerOptions`](crate::ServerOptions)), so that a slow or endless client holds neither memory
//! nor a connection; the bodies of all requests together have a limit too.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use crate::app::App;
use crate::problem::Problem;

/// Bytes of bodies that all requests together may hold while they are read and stored.
static BODIES: Semaphore = Semaphore::const_new(256 << 20);

/// A segment of the path.
pub(crate) struct Segment(pub(crate) String);

/// The query.
pub(crate) struct Params<T>(pub(crate) T);

/// The body, a JSON object. An empty body counts as `{}`.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON object. A type that derives `Deserialize` alone would also take its fields from an array,
/// in their order, or complain about the first of its elements.
pub(crate) struct Object<T>(pub(crate) T);

/// The body as it is, with its media type.
pub(crate) struct RawBody {
    pub(crate) bytes: Bytes,
    pub(crate) media: Media,
    /// Its room among the bodies of all requests.
    _room: SemaphorePermit<'static>,
}

/// The media types that a body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    /// One JSON document per line.
    Lines,
}

impl FromRequestParts<App> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl FromRequest<App> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (bytes_max, time) = (app.options.body_bytes_max, app.options.body_time);
        let media = media_of(&request)?;
        let room = room_for(&request, bytes_max)?;
        match timeout(time, Bytes::from_request(request, app)).await {
            Ok(Ok(bytes)) => Ok(Self {
                bytes,
                media,
                _room: room,
            }),
            Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(too_large(bytes_max))
            }
            Ok(Err(error)) => Err(Problem::bad_request(error.body_text())),
            Err(_) => Err(too_slow(time)),
        }
    }
}

impl<T: DeserializeOwned + ToSchema> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let RawBody {
            bytes,
            media,
            _room,
        } = RawBody::from_request(request, app).await?;
        if media != Media::Json {
            return Err(wrong_media("`Content-Type: application/json`"));
        }
        let text: &[u8] = match bytes.is_empty() {
            true => b"{}",
            false => &bytes,
        };
        match serde_json::from_slice(text) {
            Ok(Object(value)) => Ok(Self(value)),
            Err(_) if bytes.is_empty() => Err(Problem::bad_request(format!(
                "the body is empty, expected an object{}",
                example::<T>()
            ))),
            Err(error) => Err(unreadable::<T>(&error)),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// The problem of a body that is no JSON, or no `T`.
pub(crate) fn unreadable<T: ToSchema>(error: &serde_json::Error) -> Problem {
    Problem::bad_json(error, &example::<T>())
}

/// How a `T` may look, to be added to what was expected: the example of its schema.
fn example<T: ToSchema>() -> String {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => {
            let example = object.example.or(object.examples.into_iter().next());
            example.map_or_else(String::new, |example| format!(", for example {example}"))
        }
        _ => String::new(),
    }
}

/// Room for a body of the length that its head says, otherwise of the largest one.
fn room_for(request: &Request, bytes_max: usize) -> Result<SemaphorePermit<'static>, Problem> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length: Option<usize> = length.and_then(|text| text.to_str().ok()?.parse().ok());
    let wanted = length.map_or(bytes_max, |length| length.min(bytes_max));
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    BODIES.try_acquire_many(wanted).map_err(|_| {
        let detail = "other requests hold all the memory for bodies; try again";
        let (kind, title) = ("busy", "the server is busy");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    })
}

/// The media type of a body. Without a header it is JSON: small clients leave it out.
fn media_of(request: &Request) -> Result<Media, Problem> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else {
        return Ok(Media::Json);
    };
    let value = value.to_str().unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    match media.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Media::Json),
        "application/x-ndjson" | "application/jsonl" => Ok(Media::Lines),
        _ => Err(wrong_media(
            "`Content-Type: application/json`, or for a push `application/x-ndjson`",
        )),
    }
}

fn wrong_media(expected: &str) -> Problem {
    let detail = format!("the body has another media type; send {expected}");
    let (kind, title) = ("wrong_media_type", "the body has the wrong media type");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, title, detail)
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body has more than the {bytes_max} bytes that this server takes");
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "it is too large",
        detail,
    )
}

fn too_slow(time: Duration) -> Problem {
    let detail = format!("the body did not arrive within {time:?}");
    let (kind, title) = ("slow_body", "the body took too long");
    Problem::new(StatusCode::REQUEST_TIMEOUT, kind, title, detail)
}
