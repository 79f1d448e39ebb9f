//! See `brigade::fuzzing::host_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brigade::fuzzing::host_messages(bytes));
