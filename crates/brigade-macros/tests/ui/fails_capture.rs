#[brigade::main]
async fn main() {
    let pool = brigade::Pool::builder().start().await.unwrap();
    let factor = 3_i64;
    pool.run(move |a: i64| a * factor, (4,)).await.unwrap();
}
