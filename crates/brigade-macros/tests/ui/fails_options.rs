#[brigade::task(timeot = "1s")]
fn wrong_option() {}

#[brigade::task(timeout = "soon")]
fn bad_duration() {}

#[brigade::task(timeout = "0s")]
fn no_duration() {}

#[brigade::task(memory = "10 apples")]
fn bad_size() {}

#[brigade::task(name = "two words")]
fn bad_name() {}

#[brigade::task(codec = "xml")]
fn bad_codec() {}

#[brigade::main(worker_threads = 0)]
async fn no_threads() {}

fn main() {}
