//! Token files: changes while a server runs, files that are not safe, commands at the same time.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brigade_testkit::facts::wait_until;
use rustix::process::Signal;
use tempfile::TempDir;

use super::client::{Answer, BINARY, Client, desk_with, url_in};

/// A token file, and what `brigade token` writes into it.
struct Tokens {
    directory: TempDir,
}

impl Tokens {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> String {
        self.directory.path().join("tokens").display().to_string()
    }

    fn command(&self, name: &str, role: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["token", &self.path(), name, role]);
        command
    }

    fn add(&self, name: &str, role: &str) -> String {
        let output = self.command(name, role).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn remove(&self, name: &str) {
        let text = fs::read_to_string(self.path()).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with(&format!("{name} ")));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(self.path(), text).unwrap();
    }
}

#[track_caller]
fn until(what: impl FnMut() -> bool) {
    let waited = wait_until(Duration::from_secs(60), what);
    assert!(waited.is_some(), "it did not happen within a minute");
}

fn login(client: &Client, token: &str) -> Answer {
    let form = "application/x-www-form-urlencoded";
    let browser = client.with_header("sec-fetch-site", "same-origin");
    browser.send("POST", "/login", form, &format!("token={token}"))
}

/// The cookie that a login gave.
fn cookie(login: &Answer) -> String {
    let header = login.header("set-cookie").unwrap();
    header.split(';').next().unwrap().to_owned()
}

#[test]
fn a_token_that_is_removed_and_its_sessions_open_nothing_any_more() {
    let tokens = Tokens::new();
    let (ann, bob) = (tokens.add("ann", "read"), tokens.add("bob", "read"));
    let desk = desk_with(&["--auth", &tokens.path()]);
    let of = |token: &str| desk.client.with_token(token).get("/v1/queues").status;
    let session = cookie(&login(&desk.client, &ann));
    let session = desk.client.with_header("cookie", &session);
    assert_eq!((of(&ann), session.get("/v1/queues").status), (200, 200));
    tokens.remove("ann");
    assert!(desk.server.signal(Signal::HUP));
    until(|| of(&ann) == 401);
    session.get("/v1/queues").problem(401, "no_credential");
    assert_eq!(of(&bob), 200);
    // Without a signal it takes a moment longer.
    let cleo = tokens.add("cleo", "read");
    until(|| of(&cleo) == 200);
}

#[test]
fn a_file_that_is_broken_or_open_to_others_changes_nothing() {
    let tokens = Tokens::new();
    let ann = tokens.add("ann", "read");
    let desk = desk_with(&["--auth", &tokens.path()]);
    let good = fs::read_to_string(tokens.path()).unwrap();
    for (number, broken) in ["ann admin\n", ""].into_iter().enumerate() {
        fs::write(tokens.path(), broken).unwrap();
        assert!(desk.server.signal(Signal::HUP));
        let refused = || desk.server.log().matches("stay as they were").count();
        until(|| refused() > number);
        let answer = desk.client.with_token(&ann).get("/v1/queues");
        assert_eq!(answer.status, 200, "{broken:?}");
    }
    fs::write(tokens.path(), good).unwrap();
    until(|| desk.server.log().contains("read the tokens in"));
    let mode = |mode| fs::set_permissions(tokens.path(), fs::Permissions::from_mode(mode));
    mode(0o660).unwrap();
    until(|| desk.server.log().contains("can be written by others"));
    assert_eq!(desk.client.with_token(&ann).get("/v1/queues").status, 200);
    let second = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--auth", &tokens.path()])
        .env("BRIGADE_URL", url_in(&desk.directory))
        .output()
        .unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        second.status.code() == Some(2) && text.contains("chmod go-w"),
        "{text}"
    );
}

#[test]
fn many_commands_at_once_add_each_token_once() {
    let tokens = Tokens::new();
    let spawn = |number: u32| {
        let mut command = tokens.command(&format!("name{}", number / 2), "read");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = (0..20).map(spawn).collect();
    let ended = children.into_iter().map(|mut child| child.wait().unwrap());
    assert_eq!(ended.filter(|status| status.success()).count(), 10);
    let text = fs::read_to_string(tokens.path()).unwrap();
    assert_eq!(text.lines().count(), 10, "{text}");
    drop(desk_with(&["--auth", &tokens.path()]));
}

/// A server whose own token is in this directory, and the line that names it.
fn own(directory: &TempDir, number: u32) -> (Child, BufReader<std::process::ChildStdout>) {
    let url = format!("sqlite:{}/{number}.db", directory.path().display());
    let mut child = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("BRIGADE_URL", url)
        .env("XDG_DATA_HOME", directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

#[test]
fn servers_that_start_for_the_first_time_together_share_one_token() {
    let directory = tempfile::tempdir().unwrap();
    let servers: Vec<_> = (0..4).map(|number| own(&directory, number)).collect();
    for (mut child, output) in servers {
        let mut lines = output.lines().map(Result::unwrap);
        let file = lines.next().unwrap();
        let base = lines.next().unwrap();
        let token = fs::read_to_string(file.strip_prefix("token in ").unwrap()).unwrap();
        let client = Client::new(base.strip_prefix("listening on ").unwrap());
        let answer = client.with_token(token.trim()).get("/v1/queues");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let files = fs::read_dir(directory.path().join("brigade")).unwrap();
    let files: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["server-token"], "no draft is left");
}

#[test]
fn a_proxys_own_credential_is_none_of_the_servers() {
    let tokens = Tokens::new();
    let ann = tokens.add("ann", "read");
    let desk = desk_with(&["--auth", &tokens.path()]);
    let proxied = desk.client.with_header("authorization", "Basic YTpi");
    for _ in 0..30 {
        proxied.get("/v1/queues").problem(401, "no_credential");
    }
    let session = cookie(&login(&proxied, &ann));
    let session = proxied.with_header("cookie", &session);
    assert_eq!(session.get("/v1/queues").status, 200);
}

#[test]
fn behind_a_proxy_that_encrypts_a_cookie_is_for_https_and_from_this_server_alone() {
    let tokens = Tokens::new();
    let ann = tokens.add("ann", "read");
    let desk = desk_with(&["--auth", &tokens.path(), "--https-proxy"]);
    let answer = login(&desk.client, &ann);
    let header = answer.header("set-cookie").unwrap();
    assert!(
        header.starts_with("__Host-brigade_session=") && header.contains("; Secure"),
        "{header}"
    );
    let pair = cookie(&answer);
    let get = |cookie: &str| {
        let client = desk.client.with_header("cookie", cookie);
        client.get("/v1/queues").status
    };
    assert_eq!(get(&pair), 200);
    // Another program of the host can set a cookie of this name.
    assert_eq!(get(pair.strip_prefix("__Host-").unwrap()), 401);
    // A new login ends the session before it.
    let again = cookie(&login(&desk.client.with_header("cookie", &pair), &ann));
    assert_eq!((get(&pair), get(&again)), (401, 200));
}
