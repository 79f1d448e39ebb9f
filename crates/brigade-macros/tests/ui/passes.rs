use brigade::{Context, Pool, task};

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(timeout = "1.5s", memory = "64MiB", retries = 2, priority = -1, codec = "json", name = "a.b-c:d", idempotent)]
async fn everything(_cx: &Context, list: Vec<u8>) -> Result<usize, std::io::Error> {
    Ok(list.len())
}

#[brigade::main]
async fn main() {
    let pool = Pool::builder().workers(0..=1).start().await.unwrap();
    let sum: i64 = pool.call(add(1, 2)).await.unwrap();
    let length: usize = pool.call(everything(vec![1])).await.unwrap();
    let product: i64 = pool.run(|a: i64, b: i64| a * b, (3, 4)).await.unwrap();
    assert_eq!((sum, length, product), (3, 1, 12));
}
