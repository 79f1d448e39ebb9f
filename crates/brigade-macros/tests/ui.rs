//! Mistakes that the compiler reports, with its messages.

#[test]
fn pi44_wp14_pi40_bad_use_of_the_macros_and_of_types_is_told_by_the_compiler() {
    let cases = trybuild::TestCases::new();
    // With one that passes, all are built and not only checked: captured values are found after
    // type checking.
    cases.pass("tests/ui/passes.rs");
    cases.compile_fail("tests/ui/fails_*.rs");
}
