//! Broker URLs and texts of clients without the passwords in them.
//!
//! What is shown of a URL is what can be recognised as harmless; everything else becomes `***`.
//! Looking for the password instead fails with the first mistyped URL: with one character out of
//! place, any part of it may be the password.

/// Stands for what is not shown.
const MASK: &str = "***";

/// Options whose values are shown. A value of any other option may be a password, also by its
/// misspelled name.
const SHOWN_OPTIONS: [&str; 33] = [
    "application_name",
    "blocked",
    "ca",
    "calls",
    "cert",
    "connect_timeout",
    "connections",
    "consumer_timeout",
    "db",
    "dbname",
    "heartbeat",
    "host",
    "hostaddr",
    "insecure",
    "management",
    "ns",
    "pooler",
    "port",
    "priorities",
    "queues",
    "response_timeout",
    "sentinel_user",
    "server_name",
    "shared",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "synchronous",
    "target_session_attrs",
    "user",
    "wait",
    "wait_timeout",
];

/// A broker's URL for an error, a log or a person.
pub fn redact(url: &str) -> String {
    let Some((scheme, rest)) = split_scheme(url) else {
        return without_scheme(url);
    };
    if scheme == "sqlite" && !rest.starts_with("//") {
        // A path, which may hold any character; there is no user.
        let (path, query) = rest
            .split_once('?')
            .map_or((rest, None), |(path, query)| (path, Some(query)));
        return printable(&format!("sqlite:{path}{}", options(query)));
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return match rest.rsplit_once('@') {
            Some((_, place)) => format!("{scheme}:{MASK}@{}", self::place(place)),
            None if rest.is_empty() => format!("{scheme}:"),
            None => format!("{scheme}:{MASK}"),
        };
    };
    match rest.rsplit_once('@') {
        // The end of a password may stand behind it.
        Some((before, _)) if before.contains('?') => format!("{scheme}://{MASK}"),
        Some((login, place)) => format!("{scheme}://{}@{}", self::login(login), self::place(place)),
        None => format!("{scheme}://{}", place(rest)),
    }
}

/// The scheme of a URL: a known one, or one that at least looks like one.
pub fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let is_name = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
    let is_known = matches!(
        scheme,
        "sqlite" | "redis" | "rediss" | "amqp" | "amqps" | "unix" | "postgres" | "postgresql"
    );
    (is_name && (is_known || rest.starts_with("//"))).then_some((scheme, rest))
}

fn without_scheme(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, place)) if !before.contains('?') => format!("{MASK}@{}", self::place(place)),
        _ => MASK.to_owned(),
    }
}

/// Of `user:password`, the user; nothing if it is not clear which part is which.
fn login(login: &str) -> String {
    match login.split_once(':') {
        Some((user, password)) if !password.is_empty() && user.bytes().all(is_plain) => {
            format!("{user}:{MASK}")
        }
        _ => MASK.to_owned(),
    }
}

/// `host:port,..`, a path and options.
fn place(text: &str) -> String {
    let (text, query) = text
        .split_once('?')
        .map_or((text, None), |(text, query)| (text, Some(query)));
    let (hosts, path) = text
        .split_once('/')
        .map_or((text, None), |(hosts, path)| (hosts, Some(path)));
    let hosts = if hosts.split(',').all(is_host) {
        hosts
    } else {
        MASK
    };
    let path = match path {
        None => String::new(),
        Some(path) if path.bytes().all(|byte| is_plain(byte) || byte == b'/') => format!("/{path}"),
        Some(_) => format!("/{MASK}"),
    };
    format!("{hosts}{path}{}", options(query))
}

/// A host with or without a port; a password in its place is one with a port that is none.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port))
            if host
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b":.%".contains(&byte)) =>
        {
            ("", port)
        }
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5;
    host.bytes().all(is_plain) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)
}

fn options(query: Option<&str>) -> String {
    let Some(query) = query else {
        return String::new();
    };
    let shown = query.split('&').map(|option| match option.split_once('=') {
        Some((name, value)) if SHOWN_OPTIONS.contains(&name) && is_harmless(name, value) => {
            option.to_owned()
        }
        Some((name, _)) if name.bytes().all(is_plain) && name.len() <= 20 => {
            format!("{name}={MASK}")
        }
        None if option.is_empty() || SHOWN_OPTIONS.contains(&option) => option.to_owned(),
        _ => MASK.to_owned(),
    });
    format!("?{}", shown.collect::<Vec<_>>().join("&"))
}

/// Whether nothing but its own value can be in it; the management API has a URL, which has its user
/// and password from the broker's.
fn is_harmless(name: &str, value: &str) -> bool {
    let may_have: &[u8] = if name == "management" { b"/:" } else { b"/" };
    value
        .bytes()
        .all(|byte| is_plain(byte) || may_have.contains(&byte))
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A text of a client or of a server without these secrets: some quote the command that they
/// refuse, with its arguments.
///
/// Only whole words are replaced, a short secret only between quotes: else a password `a` would
/// take every letter with it.
pub fn scrub(text: &str, secrets: &[&str]) -> String {
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| scrub_one(&text, secret))
}

/// Shorter ones are words of a language.
const WORD_BYTES_MIN: usize = 5;

fn scrub_one(text: &str, secret: &str) -> String {
    let quotes = ['\'', '"', '`'];
    let ends_word = |next: Option<char>| match next {
        Some(c) if secret.len() < WORD_BYTES_MIN => quotes.contains(&c),
        None if secret.len() < WORD_BYTES_MIN => false,
        next => !next.is_some_and(char::is_alphanumeric),
    };
    let (mut scrubbed, mut from) = (String::with_capacity(text.len()), 0);
    for (start, found) in text.match_indices(secret) {
        let end = start + found.len();
        if ends_word(text[..start].chars().next_back()) && ends_word(text[end..].chars().next()) {
            scrubbed.push_str(&text[from..start]);
            scrubbed.push_str(MASK);
            from = end;
        }
    }
    scrubbed.push_str(&text[from..]);
    scrubbed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("amqp://me:s3:cr@t@host/x", "amqp://me:***@host/x"),
            ("redis://:geheim@host", "redis://:***@host"),
            ("redis://geheim@host", "redis://***@host"),
            ("redis://geheim:@host", "redis://***@host"),
            (
                "redis+unix:///run/redis.sock?password=geheim&db=1",
                "redis+unix:///run/redis.sock?password=***&db=1",
            ),
            (
                "redis+sentinel://me:geheim@a:1,b:2/name/1?sentinel_password=geheim",
                "redis+sentinel://me:***@a:1,b:2/name/1?sentinel_password=***",
            ),
            (
                "amqps://me:geheim@[::1]:5671/%2F?ns=shop&heartbeat=5s",
                "amqps://me:***@[::1]:5671/%2F?ns=shop&heartbeat=5s",
            ),
            (
                "sqlite:a@b:c.db?synchronous=full",
                "sqlite:a@b:c.db?synchronous=full",
            ),
            ("sqlite::memory:", "sqlite::memory:"),
            ("http://me:geheim@host/", "http://me:***@host/"),
            ("me:geheim@host", "***@host"),
            ("redis://me:geheim", "redis://***"),
            ("redis:me:geheim", "redis:***"),
            ("redis://me:ge?heim@host", "redis://***"),
            ("redis://me:ge/heim@host", "redis://me:***@host"),
            (
                "amqp://host/?management=http://host:15672",
                "amqp://host/?management=http://host:15672",
            ),
            (
                "amqp://host/?management=http://me:geheim@host",
                "amqp://***",
            ),
            ("jobs.db", "***"),
            (
                "postgres://me:geheim@a:1,b/db?sslmode=require&password=geheim&host=/run",
                "postgres://me:***@a:1,b/db?sslmode=require&password=***&host=/run",
            ),
            (
                "postgres:///db?options=-c%20work_mem%3D1&user=me",
                "postgres:///db?options=***&user=me",
            ),
        ] {
            assert_eq!(redact(url), shown, "{url}");
        }
    }

    /// One character is left out, doubled, put elsewhere or replaced: the password is never in what
    /// is shown.
    #[test]
    fn a_mistyped_url_is_shown_without_its_password() {
        let urls = [
            "redis://me:geheim@host:6379/0",
            "rediss://:geheim@host",
            "amqp://me:geheim@host/vhost?ns=shop",
            "redis+unix:///run/redis.sock?user=me&password=geheim",
            "redis+sentinel://me:geheim@a,b/name?sentinel_user=me&sentinel_password=geheim",
            "postgres://me:geheim@a,b:1/db?sslmode=require&connections=3",
            "postgresql:///db?host=/run&user=me&password=geheim",
        ];
        let others = [
            ':', '/', '@', '?', '#', '=', '&', '%', ' ', 'x', ';', ',', '\\', '"', '[',
        ];
        for url in urls {
            for index in 0..url.len() {
                let (before, after) = url.split_at(index);
                let rest = &after[1..];
                let mut wrong = vec![
                    format!("{before}{rest}"),
                    format!("{before}{}{after}", &after[..1]),
                    before.to_owned(),
                    after.to_owned(),
                ];
                wrong.extend(
                    others.iter().flat_map(|c| {
                        [format!("{before}{c}{rest}"), format!("{before}{c}{after}")]
                    }),
                );
                if let Some(next) = rest.get(..1) {
                    wrong.push(format!("{before}{next}{}{}", &after[..1], &rest[1..]));
                }
                for wrong in wrong {
                    let shown = redact(&wrong);
                    assert!(!shown.contains("geheim"), "{wrong}: {shown}");
                }
            }
        }
    }

    #[test]
    fn a_server_that_quotes_a_password_is_not_repeated() {
        let text =
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'me' 'geheim' ";
        assert_eq!(scrub(text, &["geheim"]), text.replace("geheim", "***"));
        assert_eq!(scrub("a man, 'a' plan", &["a"]), "a man, '***' plan");
        assert_eq!(
            scrub("geheimnis, geheim", &["geheim", ""]),
            "geheimnis, ***"
        );
    }
}
