//! Credentials: tokens, roles, sessions, requests of other sites.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::json;

use super::client::{BINARY, Client, Desk, desk, desk_with};

/// A token file with a token of each role, made by the command.
fn tokens(directory: &tempfile::TempDir) -> (String, Vec<(String, String)>) {
    let file = directory.path().join("tokens").display().to_string();
    let made = ["read", "push", "work", "admin"].map(|role| {
        let output = Command::new(BINARY)
            .args(["token", &file, role, role])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        (
            role.to_owned(),
            String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        )
    });
    (file, made.to_vec())
}

fn with_tokens() -> (Desk, impl Fn(&str) -> Client, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (file, made) = tokens(&directory);
    let desk = desk_with(&["--auth", &file]);
    let client = desk.client.clone();
    let of = move |role: &str| {
        let (_, token) = made.iter().find(|(known, _)| known == role).unwrap();
        client.with_token(token)
    };
    (desk, of, directory)
}

#[test]
fn each_role_may_do_its_own_and_no_more() {
    let (desk, of, _directory) = with_tokens();
    desk.client.get("/v1/queues").problem(401, "no_credential");
    let wrong = desk.client.with_token("brigade_guess").get("/v1/queues");
    wrong.problem(401, "wrong_credential");
    assert_eq!(wrong.header("www-authenticate"), Some("Bearer"));
    let id = of("push").push("q", &json!({"payload": 1}));
    let problem = of("push").get("/v1/jobs").problem(403, "wrong_role");
    assert!(
        problem["detail"].as_str().unwrap().contains("needs read"),
        "{problem}"
    );
    for role in ["read", "push", "work", "admin"] {
        assert_eq!(
            of(role).get(&format!("/v1/jobs/{id}")).status,
            200,
            "{role}"
        );
    }
    of("push")
        .get(&format!("/v1/jobs/{id}/why"))
        .problem(403, "wrong_role");
    of("read")
        .send("POST", "/v1/queues/q/take", "", "")
        .problem(403, "wrong_role");
    of("work")
        .post("/v1/queues/q/jobs", &json!({"payload": 1}))
        .problem(403, "wrong_role");
    of("work")
        .send("POST", "/v1/queues/q/pause", "", "")
        .problem(403, "wrong_role");
    assert_eq!(
        of("work").send("POST", "/v1/queues/q/take", "", "").status,
        200
    );
    assert_eq!(
        of("admin").send("POST", "/v1/queues/q/take", "", "").status,
        204
    );
    // Probes need none.
    assert_eq!(desk.client.get("/livez").status, 200);
}

#[test]
fn a_job_shows_what_was_written_in_it_only_to_readers() {
    let (_desk, of, _directory) = with_tokens();
    let job = json!({"payload": "secret-1", "keep": "1h", "retries": 1});
    let id = of("push").push("q", &job);
    let settle = |how: &str, body: &serde_json::Value| {
        let leased = of("work").send("POST", "/v1/queues/q/lease?wait=60s", "", "");
        let lease = leased.json()["lease"].as_str().unwrap().to_owned();
        let settled = of("work").post(&format!("/v1/leases/{lease}/{how}"), body);
        assert_eq!(settled.status, 204, "{settled:?}");
    };
    let path = format!("/v1/jobs/{id}");
    settle("nack", &json!({"reason": "secret-2", "after": 0}));
    settle("ack", &json!({"result": "secret-3"}));
    for role in ["push", "work"] {
        let seen = of(role).get(&path);
        assert!(!seen.text.contains("secret"), "{seen:?}");
        let seen = seen.json();
        assert_eq!(
            (&seen["state"], &seen["failed"]),
            (&json!("done"), &json!(1))
        );
        assert_eq!(seen["history"][0]["kind"], "failed");
    }
    let whole = of("read").get(&path).text;
    for secret in ["secret-1", "secret-2", "secret-3"] {
        assert!(whole.contains(secret), "{whole}");
    }

    let job = json!({"payload": 1});
    let id = of("push").push("q", &job);
    settle("dead-letter", &json!({"reason": "secret-4"}));
    let path = format!("/v1/jobs/{id}");
    let waited = of("push").get(&format!("{path}?wait=60s"));
    assert!(!waited.text.contains("secret"), "{waited:?}");
    assert!(of("read").get(&path).text.contains("secret-4"));
}

#[test]
fn a_server_makes_a_token_that_only_its_user_can_read() {
    let desk = desk_with(&[]);
    let file = desk.server.token_file().unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    desk.client.get("/v1/queues").problem(401, "no_credential");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(
        desk.client
            .with_token(token.trim())
            .get("/v1/queues")
            .status,
        200
    );
}

#[test]
fn many_wrong_tokens_are_slowed_down_and_the_right_one_is_not() {
    let (desk, of, _directory) = with_tokens();
    let guess = |n: u32| {
        desk.client
            .with_token(&format!("brigade_{n}"))
            .get("/v1/queues")
    };
    (0..29).for_each(|n| drop(guess(n)));
    let last = guess(29);
    last.problem(429, "too_many_failures");
    assert!(last.header("retry-after").unwrap().parse::<u64>().unwrap() <= 61);
    assert_eq!(of("read").get("/v1/queues").status, 200);
}

#[test]
fn a_session_begins_with_the_form_and_acts_only_for_pages_of_this_server() {
    let (desk, _, directory) = with_tokens();
    let (_, made) = {
        let file = directory.path().join("tokens").display().to_string();
        let output = Command::new(BINARY)
            .args(["token", &file, "boss", "admin"])
            .output()
            .unwrap();
        (file, String::from_utf8(output.stdout).unwrap())
    };
    // The file is read at the start, so this needs a server of its own.
    drop(desk);
    let file = directory.path().join("tokens").display().to_string();
    let desk = desk_with(&["--auth", &file]);
    assert_eq!(desk.client.get("/login").status, 200);
    let browser = desk.client.with_header("sec-fetch-site", "same-origin");
    let form = "application/x-www-form-urlencoded";
    let wrong = browser.send("POST", "/login", form, "token=guess&next=/queues");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let body = format!("token={}&next=/queues", made.trim());
    let right = browser.send("POST", "/login", form, &body);
    assert_eq!(
        (right.status, right.header("location")),
        (303, Some("/queues"))
    );
    let cookie = right.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    let session = desk.client.with_header("cookie", cookie);
    assert_eq!(session.get("/v1/queues").status, 200);
    let pause = |client: &Client| client.send("POST", "/v1/queues/q/pause", "", "");
    assert_eq!(
        pause(&session.with_header("sec-fetch-site", "same-origin")).status,
        204
    );
    pause(&session.with_header("sec-fetch-site", "cross-site")).problem(403, "other_site");
    pause(&session.with_header("sec-fetch-site", "same-site")).problem(403, "other_site");
    pause(&session.with_header("origin", "https://evil.example")).problem(403, "other_site");
    pause(&session).problem(403, "other_site");
    let out = session
        .with_header("sec-fetch-site", "same-origin")
        .send("POST", "/logout", "", "");
    assert_eq!(out.status, 303);
    session.get("/v1/queues").problem(401, "no_credential");
}

#[test]
fn without_credentials_a_page_of_another_site_can_change_nothing() {
    let desk = desk();
    let push = |client: Client| client.post("/v1/queues/q/jobs", &json!({"payload": 1}));
    push(desk.client.with_header("sec-fetch-site", "cross-site")).problem(403, "other_site");
    push(desk.client.with_header("origin", "http://evil.example")).problem(403, "other_site");
    let own = desk.client.base.clone();
    assert_eq!(push(desk.client.with_header("origin", &own)).status, 201);
    assert_eq!(push(desk.client.clone()).status, 201);
}

#[test]
fn only_known_hosts_are_answered() {
    let desk = desk_with(&["--auth", "none", "--host", "jobs.example"]);
    let get = |host: &str| desk.client.with_header("host", host).get("/v1/queues");
    for host in [
        "jobs.example",
        "JOBS.example:7420",
        "localhost",
        "127.0.0.1:1",
        "[::1]",
    ] {
        assert_eq!(get(host).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "jobs.example.evil",
    ] {
        get(host).problem(421, "wrong_host");
    }
}

#[test]
fn the_access_log_has_neither_tokens_nor_leases_nor_queries_nor_payloads() {
    let desk = desk();
    let client = desk.client.with_token("brigade_secret-token");
    client.post("/v1/queues/q/jobs", &json!({"payload": "secret-payload"}));
    client.get("/v1/jobs?text=secret-query");
    client.get("/v1/%1b%5b31m");
    client.post("/v1/leases/secret-lease/ack", &json!({}));
    let log = desk.server.log();
    assert!(
        log.contains("/v1/queues/q/jobs") && log.contains("201"),
        "{log}"
    );
    assert!(log.contains("/v1/leases/-/ack"), "{log}");
    assert!(!log.contains("secret") && !log.contains('\x1b'), "{log}");
}

#[test]
fn responses_have_headers_for_browsers() {
    let desk = desk();
    for path in ["/v1/queues", "/v1/nothing", "/login"] {
        let answer = desk.client.get(path);
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
}
