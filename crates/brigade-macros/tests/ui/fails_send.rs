use std::rc::Rc;

use brigade::{Context, task};

#[task]
async fn counts(cx: &Context, n: u8) -> u8 {
    let n = Rc::new(n);
    cx.cancelled().await;
    *n
}

fn main() {}
