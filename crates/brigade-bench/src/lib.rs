//! Benchmarks of Brigade, and of what it is compared with: see `benches/`. This library is empty.
