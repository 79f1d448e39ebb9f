//! Broker URLs: the default one, and what is never printed of any.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::geteuid;

use super::desk::Desk;

#[test]
fn passwords_are_never_printed() {
    let desk = Desk::new();
    let urls = [
        "redis://me:geheim@localhost:1/0?token=geheimer",
        "redis://me:geheim@localhost:1/0?pasword=geheim",
        "redis://geheim@localhost:1",
        "redis://:geheim@localhost:1",
        "redis:/me:geheim@localhost:1",
        "redis//me:geheim@localhost:1",
        "rediss+x://me:geheim@localhost:1",
        "me:geheim@localhost:1",
        "geheim@localhost:1",
        "amqp://me:geheim",
        "amqp://me:gehe/im-geheim@localhost:1",
        "amqp://localhost:1/?user=me&password=geheim",
        "sqlite:jobs.db?password=geheim",
        "sqlite:jobs.db?geheim",
        "sqlite://me:geheim@localhost/x",
    ];
    for url in urls {
        for arguments in [
            &["queues"][..],
            &["--help"],
            &["help", "push"],
            &["push", "--nonsense"],
        ] {
            let output = desk
                .command(arguments)
                .env("BRIGADE_URL", url)
                .current_dir(desk.path(""))
                .output()
                .unwrap();
            let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(
                !printed.is_empty() && !printed.contains("geheim"),
                "{url}: {printed}"
            );
        }
        // As an option, and where there is no place for it.
        for arguments in [
            &["queues", "--broker", url][..],
            &["queues", &format!("--brokr={url}")],
            &["queues", url],
            &["job", "--x", url],
        ] {
            let ran = desk
                .command(arguments)
                .current_dir(desk.path(""))
                .output()
                .unwrap();
            let printed = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
            assert!(!printed.contains("geheim"), "{arguments:?}: {printed}");
        }
    }
}

#[test]
fn the_cause_of_an_error_is_told_for_a_url_with_a_password_too() {
    let desk = Desk::new();
    // A password that is a word of every sentence.
    let ran = desk.run(&["queues", "--broker", "redis://me:a@127.0.0.1:1"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr
            .contains("cannot use the broker redis://me:***@127.0.0.1:1")
            && ran.stderr.contains("refused"),
        "{}",
        ran.stderr
    );
    let ran = desk.run(&["queues", "--broker", "redis://me:a@127.0.0.1:port"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("a port is a number from 1 to 65535"),
        "{}",
        ran.stderr
    );
}

/// Pushes a job to the default broker of a user with this data directory; what it printed.
fn push(desk: &Desk, data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = desk.command(&[&["push", "q", "1"], arguments].concat());
    let output = command
        .env("XDG_DATA_HOME", data)
        .env_remove("BRIGADE_URL")
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_job_file_is_in_the_data_directory_unless_told_otherwise() {
    let desk = Desk::new();
    let data = desk.path("data");
    assert_eq!(push(&desk, &data, &[]).0, Some(0));
    let directory = data.join("brigade");
    assert!(directory.join("jobs.db").is_file());
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let url = |name: &str| format!("sqlite:{}", desk.path(name).display());
    let mut command = desk.command(&["push", "q", "1"]);
    assert!(
        command
            .env("BRIGADE_URL", url("of_env"))
            .status()
            .unwrap()
            .success()
    );
    let mut command = desk.command(&["push", "q", "1", "--broker", &url("of_option")]);
    assert!(
        command
            .env("BRIGADE_URL", url("never"))
            .status()
            .unwrap()
            .success()
    );
    assert!(
        desk.path("of_env").is_file()
            && desk.path("of_option").is_file()
            && !desk.path("never").exists()
    );
}

#[test]
fn a_data_directory_that_was_there_is_closed_to_others() {
    let desk = Desk::new();
    let directory = desk.path("data/brigade");
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(push(&desk, &desk.path("data"), &[]).0, Some(0));
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_data_directory_of_another_user_is_not_used() {
    if !geteuid().is_root() {
        println!("MISSING: root, so there is no directory of another user");
        return;
    }
    let desk = Desk::new();
    let directory = desk.path("data/brigade");
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(65_534), None).unwrap();
    let (code, error) = push(&desk, &desk.path("data"), &[]);
    assert!(
        code == Some(2) && error.contains("it belongs to user 65534"),
        "{error}"
    );
    assert!(!directory.join("jobs.db").exists());
}
