use brigade::task;

#[task(aliases = ["add"])]
fn add() {}

#[task(aliases = ["one", "one"])]
fn twice() {}

#[task(aliases = [ONE])]
fn named() {}

const ONE: &str = "one";

fn main() {}
