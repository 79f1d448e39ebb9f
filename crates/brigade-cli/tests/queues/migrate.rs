//! `migrate`: the schema of a PostgreSQL database, made, updated, printed or refused.

use std::process::{Output, Stdio};

use brigade_testkit::postgres::Postgres;

use super::desk::Desk;

/// A database of its own on the shared server.
struct Database {
    desk: Desk,
    server: &'static Postgres,
    url: String,
}

impl Database {
    fn new() -> Self {
        let server = Postgres::shared().unwrap();
        Self {
            desk: Desk::new(),
            server,
            url: server.fresh_database().unwrap(),
        }
    }

    fn sql(&self, text: &str) -> String {
        let name = self.url.rsplit('/').next().unwrap();
        self.server.sql_in("postgres", name, text).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.desk.command(arguments);
        command.env("BRIGADE_URL", &self.url).output().unwrap()
    }

    /// Runs a command that has to go well; what it printed, and what it said about it.
    fn ok(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let [printed, said] = [&output.stdout, &output.stderr].map(|bytes| text(bytes));
        assert!(output.status.success(), "{arguments:?}: {said}");
        (printed, said)
    }

    /// The tables, indexes and functions of the schema, each with the transaction that last changed
    /// it.
    fn objects(&self) -> String {
        self.sql(
            "select string_agg(name || ' ' || changed, ',' order by name, changed) from (
                select proname::text as name, xmin::text as changed from pg_proc
                 where pronamespace = to_regnamespace('brigade')
                union all select relname::text, xmin::text from pg_class
                 where relnamespace = to_regnamespace('brigade')) objects",
        )
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_fresh_database_gets_the_schema_and_the_next_run_finds_it() {
    let database = Database::new();
    let (printed, said) = database.ok(&["migrate"]);
    assert_eq!(printed, "");
    assert!(said.contains("is made and up to date"), "{said}");
    let before = database.objects();
    let (_, said) = database.ok(&["migrate"]);
    assert!(said.contains("was up to date"), "{said}");
    assert_eq!(database.objects(), before);
    database.ok(&["push", "mail", "1"]);
}

#[test]
fn the_printed_sql_makes_the_schema_and_printing_it_changes_nothing() {
    let database = Database::new();
    let (printed, _) = database.ok(&["migrate", "--print"]);
    assert!(printed.starts_with("begin;") && printed.contains("create schema brigade"));
    assert_eq!(database.sql("select to_regnamespace('brigade')"), "");
    // An administrator runs it, by psql or whatever there is.
    database.sql(&printed);
    let (printed, _) = database.ok(&["migrate", "--print"]);
    assert_eq!(printed, "");
    let (_, said) = database.ok(&["migrate"]);
    assert!(said.contains("was up to date"), "{said}");
    database.ok(&["push", "mail", "1"]);
}

#[test]
fn a_schema_without_a_version_is_filled_or_left_to_its_program() {
    let database = Database::new();
    // Made by an administrator for a user who may not make one.
    database.sql("create schema brigade");
    let (_, said) = database.ok(&["migrate"]);
    assert!(said.contains("is made and up to date"), "{said}");

    let foreign = Database::new();
    foreign.sql("create schema brigade; create table brigade.soldiers (name text)");
    let before = foreign.objects();
    for arguments in [&["migrate"][..], &["migrate", "--print"]] {
        let output = foreign.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another program"), "{said}");
    }
    assert_eq!(foreign.objects(), before);
}

#[test]
fn a_newer_schema_is_refused_and_nothing_is_written() {
    let database = Database::new();
    database.ok(&["migrate"]);
    database.sql(
        "create or replace function brigade.schema_version() returns integer language sql immutable \
            as 'select 1000000'",
    );
    let before = database.objects();
    for arguments in [&["migrate"][..], &["migrate", "--print"], &["queues"]] {
        let output = database.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(text(&output.stdout), "");
        assert!(
            said.contains("newer") && said.contains("update the program"),
            "{said}"
        );
    }
    assert_eq!(database.objects(), before);
}

#[test]
fn of_commands_that_migrate_at_the_same_time_one_makes_the_schema() {
    let database = Database::new();
    let running: Vec<_> = (0..4)
        .map(|_| {
            let mut command = database.desk.command(&["migrate"]);
            let command = command.env("BRIGADE_URL", &database.url);
            command.stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut made = 0;
    for child in running {
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        made += usize::from(said.contains("is made"));
    }
    assert_eq!(made, 1);
    database.ok(&["push", "mail", "1"]);
}

#[test]
fn a_broker_without_a_schema_to_make_is_named() {
    let desk = Desk::new();
    let ran = desk.run(&["migrate"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("PostgreSQL"), "{}", ran.stderr);
}
