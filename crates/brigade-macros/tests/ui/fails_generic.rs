#[brigade::task]
fn show<T: ToString>(value: T) -> String {
    value.to_string()
}

#[brigade::task]
fn show_any(value: impl ToString) -> String {
    value.to_string()
}

fn main() {}
