use brigade::{Context, Pool, task};

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(timeout = "1.5s", memory = "64MiB", address_space = "1GiB", cpu = "10s", files = 64, processes = 8, file_size = "1GiB", retries = 2, priority = -1, codec = "json", name = "a.b-c:d", idempotent)]
async fn everything(_cx: &Context, list: Vec<u8>) -> Result<usize, std::io::Error> {
    Ok(list.len())
}

/// An argument of the function's name.
#[task]
fn double(double: i64) -> i64 {
    2 * double
}

#[task]
async fn reads(_cx: &Context, reads: String) -> std::io::Result<usize> {
    Ok(reads.len())
}

#[task]
fn writes(text: String) -> std::fmt::Result {
    if text.is_empty() { Err(std::fmt::Error) } else { Ok(()) }
}

#[task]
fn boxed(text: String) -> Result<Box<[u8]>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(text.into_bytes().into())
}

/// A profile, and rules of one's own.
#[task(sandbox = "no-network")]
fn in_a_profile() -> u8 {
    1
}

#[task(sandbox = brigade::Sandbox::builder().system().build().unwrap())]
fn by_rules() -> u8 {
    2
}

#[brigade::main]
async fn main() {
    let pool = Pool::builder().workers(0..=1).start().await.unwrap();
    let sum: i64 = pool.call(add(1, 2)).await.unwrap();
    let length: usize = pool.call(everything(vec![1])).await.unwrap();
    let product: i64 = pool.run(|a: i64, b: i64| a * b, (3, 4)).await.unwrap();
    assert_eq!((sum, length, product), (3, 1, 12));
    // This program is built without the cargo feature.
    for call in [in_a_profile(), by_rules()] {
        let error = pool.call(call).await.unwrap_err();
        let brigade::CallError::Rejected(error) = error else {
            panic!("{error}")
        };
        assert!(error.to_string().contains("cargo feature `sandbox`"), "{error}");
    }
    assert_eq!(pool.call(double(4)).await.unwrap(), 8);
    assert_eq!(pool.call(reads("four".to_owned())).await.unwrap(), 4);
    assert!(pool.call(writes(String::new())).await.is_err());
    assert_eq!(pool.call(boxed("a".to_owned())).await.unwrap(), b"a"[..].into());
}
