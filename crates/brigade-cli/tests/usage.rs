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
        &["missing-command"][..],
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

/// The commands that help lists.
fn commands() -> Vec<String> {
    let help = String::from_utf8(brigade(&["--help"]).stdout).unwrap();
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = list
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    let names: Vec<String> = names.filter(|name| name != "help").collect();
    assert!(names.len() > 15, "{help}");
    names
}

#[test]
fn completions_of_each_shell_name_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = brigade(&["completions", shell]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for command in commands() {
            assert!(text.contains(&command), "{shell}: no {command}");
        }
    }
    let unknown = brigade(&["completions", "tcsh"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

#[test]
fn bash_completes_a_command_that_was_begun() {
    let script = r#"source <("$0" completions bash)
        COMP_WORDS=(brigade que) COMP_CWORD=1 COMP_LINE="brigade que" COMP_POINT=11
        _brigade brigade que brigade
        printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash")
        .args(["--norc", "-c", script, env!("CARGO_BIN_EXE_brigade")])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "queues\n",
        "{output:?}"
    );
}

#[test]
fn manual_pages_are_written_for_every_command_and_the_first_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = brigade(&["man", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for command in commands() {
        let page = std::fs::read_to_string(pages.join(format!("brigade-{command}.1"))).unwrap();
        assert!(
            page.contains(".TH ") && page.contains("SYNOPSIS"),
            "{command}: {page}"
        );
    }
    assert!(
        !pages.join("brigade-work-guard.1").exists(),
        "it is internal"
    );
    let first = std::fs::read(pages.join("brigade.1")).unwrap();
    assert!(
        brigade(&["man"]).stdout == first,
        "the page printed is the one written"
    );
}
