//! A shop: an order is stored and its mail is pushed in one transaction, so that there is never an
//! order without its mail or a mail for an order that was not stored.
//!
//!     DATABASE_URL=postgres://user@localhost/shop cargo run --example orders
//!     curl -X POST localhost:3000/orders/soap
//!
//! The mail is sent by a consumer in the same program; it may as well be in another.
#![expect(clippy::disallowed_methods, reason = "a program spawns its own tasks")]

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use brigade::postgres::PushInPostgres as _;
use brigade::{Broker, task};
use sqlx::PgPool;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A job may start more than once: a real one asks its provider for at most one mail with this
/// number.
#[task(retries = 5, timeout = "30s")]
fn confirm(order: i64, item: String) {
    println!("mail: your order {order}, {item}, is on its way");
}

async fn place_order(pool: &PgPool, item: &str) -> Result<i64, Failure> {
    let mut tx = pool.begin().await?;
    let insert = "insert into orders (item) values ($1) returning id";
    let order: i64 = sqlx::query_scalar(insert)
        .bind(item)
        .fetch_one(&mut *tx)
        .await?;
    confirm(order, item.to_owned()).push_in(&mut tx).await?;
    tx.commit().await?;
    Ok(order)
}

async fn orders(
    State(pool): State<PgPool>,
    Path(item): Path<String>,
) -> Result<Json<i64>, StatusCode> {
    place_order(&pool, &item).await.map(Json).map_err(|error| {
        eprintln!("order {item}: {error}");
        StatusCode::SERVICE_UNAVAILABLE
    })
}

#[brigade::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("DATABASE_URL")?;
    // Makes the schema brigade, if it is not there.
    let broker = Broker::connect(&url).await?;
    let pool = PgPool::connect(&url).await?;
    sqlx::query("create table if not exists orders (id bigserial primary key, item text not null)")
        .execute(&pool)
        .await?;
    let consumer = tokio::spawn(broker.consumer().run_until(brigade::stop_signal()));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = Router::new()
        .route("/orders/{item}", post(orders))
        .with_state(pool);
    axum::serve(listener, app)
        .with_graceful_shutdown(brigade::stop_signal())
        .await?;
    consumer.await??;
    Ok(())
}
