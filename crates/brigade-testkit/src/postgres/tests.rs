use std::process::Stdio;

use super::*;

#[test]
fn a_server_starts_survives_a_kill_and_leaves_nothing() {
    let mut server = Postgres::start(&[]).unwrap();
    server
        .sql("create table kept (n int); insert into kept values (7)")
        .unwrap();
    let (pid, directory) = (server.pid(), server.directory.clone());
    server.kill().unwrap();
    assert!(!facts::is_alive(pid));
    server.sql("select 1").unwrap_err();
    server.start_again().unwrap();
    assert_eq!(server.sql("select n from kept").unwrap(), "7");
    server.shut_down().unwrap();
    server.start_again().unwrap();
    assert_eq!(server.sql("select n from kept").unwrap(), "7");
    server.kill().unwrap();
    let text = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap();
    let line = text.lines().nth(6).unwrap();
    let segment = line.split_whitespace().last().unwrap();
    let has_segment = || {
        let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        segments
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some(segment))
    };
    assert!(has_segment());
    drop(server);
    assert!(!directory.exists() && !has_segment());
}

#[test]
fn a_stopped_server_answers_when_it_goes_on() {
    let mut server = Postgres::start(&[]).unwrap();
    server.stop();
    assert!(facts::is_stopped(server.pid()));
    server.cont();
    assert_eq!(server.sql("select 1").unwrap(), "1");
    // Also one that is stopped ends with its test.
    server.stop();
    let pid = server.pid();
    drop(server);
    assert!(!facts::is_alive(pid));
}

#[test]
fn a_standby_follows_and_becomes_the_primary() {
    let mut server = Postgres::start(&[]).unwrap();
    let standby = server.start_standby().unwrap();
    server.sql("create table kept (n int)").unwrap();
    let follows = || standby.sql("select count(*) from kept").is_ok();
    assert!(facts::wait_until(ANSWER_BOUND, follows).is_some());
    standby.sql("insert into kept values (7)").unwrap_err();
    server.kill().unwrap();
    standby.promote().unwrap();
    standby.sql("insert into kept values (7)").unwrap();
}

#[test]
fn a_pooler_stands_in_front_of_a_server() {
    let server = Postgres::start(&["max_connections = 20"]).unwrap();
    assert_eq!(server.sql("show max_connections").unwrap(), "20");
    let pooler = server.start_pooler("transaction", &[]).unwrap();
    let answer = server.programs.run(
        "psql",
        &[
            "--no-align",
            "--tuples-only",
            "-c",
            "select 1",
            &pooler.url(),
        ],
    );
    assert_eq!(answer.unwrap().trim(), "1");
}

#[test]
fn all_connections_can_be_ended_and_settings_changed() {
    let server = Postgres::start(&[]).unwrap();
    let waiting = server
        .programs
        .command(server.programs.program("psql"))
        .args(["-c", "select pg_sleep(600)", &server.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut waiting = waiting.unwrap();
    let seen = || server.terminate_connections().unwrap() == 1;
    assert!(facts::wait_until(ANSWER_BOUND, seen).is_some());
    assert!(!waiting.wait().unwrap().success());
    server.set("work_mem", "5MB").unwrap();
    let changed = || server.sql("show work_mem").unwrap() == "5MB";
    assert!(facts::wait_until(ANSWER_BOUND, changed).is_some());
    let url = server.create_database("other").unwrap();
    assert!(url.ends_with("/other"));
    assert_eq!(server.sql_in("postgres", "other", "select 1").unwrap(), "1");
}

#[test]
fn the_shared_server_is_one_and_each_test_has_its_database() {
    let first = Postgres::shared().unwrap();
    let (mut again, _users) = share().unwrap();
    assert_eq!((first.port(), first.pid()), (again.port(), again.pid()));
    again.kill().unwrap_err();
    let url = first.fresh_database().unwrap();
    assert_ne!(url, again.fresh_database().unwrap());
    let name = url.rsplit('/').next().unwrap();
    assert_eq!(again.sql_in("postgres", name, "select 1").unwrap(), "1");
}
