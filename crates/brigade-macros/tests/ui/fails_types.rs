#[brigade::task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

async fn calls(pool: brigade::Pool) {
    let _ = pool.call(add("one", 2)).await;
    let _ = pool.call(add(1)).await;
    let _: String = pool.call(add(1, 2)).await.unwrap();
}

fn main() {
    let _ = calls;
}
