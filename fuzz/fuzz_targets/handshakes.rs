//! See `brigade::fuzzing::handshakes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::handshakes(bytes));
