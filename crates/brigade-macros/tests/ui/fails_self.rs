struct Shop;

impl Shop {
    #[brigade::task]
    fn open(&self) {}
}

fn main() {}
