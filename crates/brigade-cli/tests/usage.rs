//! The command line itself: usage, help, version.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(
    clippy::disallowed_methods,
    reason = "starts the binary under test and waits for it"
)]

use std::process::{Command, Output};

fn brigade(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brigade"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for wrong in [
        &["no-such-command"][..],
        &["push"],
        &["queues", "--quick"],
        &[],
    ] {
        let output = brigade(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{wrong:?}: {output:?}"
        );
    }
    let version = brigade(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("brigade {}\n", env!("CARGO_PKG_VERSION"))
    );
    for help in [&["--help"][..], &["push", "--help"]] {
        let output = brigade(help);
        assert!(
            output.status.success()
                && String::from_utf8_lossy(&output.stdout).contains("Usage: brigade"),
            "{output:?}"
        );
    }
}
