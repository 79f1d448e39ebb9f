//! `work --sandbox`: what its programs may do.

use std::fs;

use brigade::{Broker, Sandbox};

use super::desk::Desk;

/// Reads, writes and connects, and prints what worked.
const PROBE: &str = r#"
cat /etc/passwd > /dev/null 2>&1 && printf 'passwd '
cat "$DESK/read/file" 2> /dev/null
(echo x > "$DESK/write/new") 2> /dev/null && printf 'write '
(echo x > "$DESK/read/new") 2> /dev/null && printf 'elsewhere '
perl -MSocket -e 'socket(my $s, AF_INET, SOCK_STREAM, 0) or exit 1' 2> /dev/null && printf 'socket '
setsid true 2> /dev/null && printf 'session '
kill -0 "$PPID" 2> /dev/null && printf 'signal '
true
"#;

/// What worked with these options, for a job that asks for a sandbox itself or for none.
fn tried(options: &[&str], of_job: Option<Sandbox>) -> String {
    let desk = Desk::new();
    for name in ["read", "write"] {
        fs::create_dir(desk.path(name)).unwrap();
        fs::write(desk.path(name).join("file"), name.to_owned() + " ").unwrap();
    }
    match of_job {
        None => drop(desk.push(&["q", "1", "--keep", "1h"])),
        Some(sandbox) => push(&desk, sandbox),
    }
    let [read, write] = ["read", "write"].map(|name| desk.path(name).display().to_string());
    let mut line = vec!["work", "q", "--until-empty"];
    for option in options {
        line.push(match *option {
            "READ" => &read,
            "WRITE" => &write,
            other => other,
        });
    }
    line.extend(["--", "sh", "-c", PROBE]);
    desk.ok(&line)
}

fn push(desk: &Desk, sandbox: Sandbox) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = format!("sqlite:{}", desk.path("jobs.db").display());
        let broker = Broker::connect(&url).await.unwrap();
        let job = broker.queue("q").job(&1).unwrap().sandbox(sandbox);
        broker.push(job).await.unwrap();
    });
}

#[test]
fn a_job_is_allowed_no_more_than_the_command_line_says() {
    let wide = || Some(Sandbox::no_network());
    assert_eq!(tried(&["--sandbox", "read-only"], wide()), "passwd read ");
    let narrow = Some(Sandbox::read_only());
    assert_eq!(tried(&["--sandbox", "no-network"], narrow), "passwd read ");
    assert_eq!(tried(&[], wide()), "passwd read write elsewhere ");
}

#[test]
fn a_program_does_what_its_sandbox_allows_and_nothing_else() {
    let all = "passwd read write elsewhere socket session signal ";
    for (options, expected) in [
        (&[][..], all),
        (&["--sandbox", "no-network"], "passwd read write elsewhere "),
        (&["--sandbox", "read-only"], "passwd read "),
        (
            &["--sandbox", "read-only", "--write", "WRITE"],
            "passwd read write ",
        ),
        (&["--sandbox", "compute"], ""),
        (&["--sandbox", "compute", "--read", "READ"], "read "),
    ] {
        assert_eq!(tried(options, None), expected, "{options:?}");
    }
}

#[test]
fn a_sandbox_that_cannot_be_is_refused_before_a_job_is_taken() {
    let desk = Desk::new();
    let id = desk.push(&["q", "1"]);
    for options in [
        &["--sandbox", "none"][..],
        &["--sandbox", "compute", "--read", "/nowhere/at/all"],
        &["--sandbox", "no-network", "--write", "/tmp"],
        &["--read", "/tmp"],
    ] {
        let line = [&["work", "q", "--until-empty"], options, &["--", "true"]].concat();
        let ran = desk.run(&line);
        assert!(
            ![None, Some(0)].contains(&ran.code),
            "{options:?}: {}",
            ran.stderr
        );
    }
    assert_eq!(desk.job(&id)["state"], "ready", "{}", desk.job(&id));
}
