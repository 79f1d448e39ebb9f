use brigade::task;

#[task]
fn text() -> &'static str {
    "text"
}

#[task]
fn texts() -> Result<Vec<(u8, &'static str)>, std::io::Error> {
    Ok(Vec::new())
}

#[task]
fn numbers() -> impl Iterator<Item = u8> {
    0..3
}

#[task]
fn forever() -> ! {
    loop {}
}

#[task]
fn any() -> Box<dyn std::any::Any> {
    Box::new(1)
}

fn main() {}
