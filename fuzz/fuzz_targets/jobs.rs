//! See `brigade::fuzzing::jobs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::jobs(bytes));
