use brigade::task;

type Outcome = Result<u8, String>;

#[task]
fn outcome() -> Outcome {
    Err("it failed".to_owned())
}

fn main() {}
