//! The code of the guide's chapters, as doc tests.

macro_rules! chapters {
    ($($file:literal: $name:ident,)*) => {
        $(#[cfg(doctest)]
        #[doc = include_str!($file)]
        mod $name {})*
    };
}

chapters! {
    "first-pool.md": first_pool,
    "first-queue.md": first_queue,
    "ordering.md": ordering,
    "at-least-once.md": at_least_once,
    "transactions.md": transactions,
    "testing.md": testing,
    "deploying.md": deploying,
    "operating.md": operating,
    "kubernetes.md": kubernetes,
    "remote.md": remote,
    "security.md": security,
    "untrusted-code.md": untrusted_code,
}
