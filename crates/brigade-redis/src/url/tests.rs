//! What URLs mean, and that no error has a secret.

use super::*;

fn parsed(url: &str) -> RedisConfig {
    RedisConfig::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp(host.into(), port)
}

#[test]
fn urls_of_one_server_say_where_and_how() {
    let config = parsed("redis://localhost");
    assert_eq!(config.layout, ServerLayout::One(tcp("localhost", 6379)));
    assert!(
        config.login.user.is_none()
            && config.login.password.is_none()
            && config.tls.is_none()
            && config.wait.is_none()
    );
    assert_eq!(
        (config.database, config.answer_timeout),
        (0, ANSWER_TIMEOUT)
    );

    let config = parsed("redis://me:p%40s%2Fs:1@[::1]:7000/3?response_timeout=2s");
    assert_eq!(config.layout, ServerLayout::One(tcp("::1", 7000)));
    assert_eq!(
        (
            config.login.user.as_deref(),
            config.login.password.as_deref()
        ),
        (Some("me"), Some("p@s/s:1"))
    );
    assert_eq!(
        (config.database, config.answer_timeout),
        (3, Duration::from_secs(2))
    );

    let config = parsed("rediss://:secret@redis.example?ca=/etc/a%20b.pem&cert=c.pem&key=k.pem");
    assert_eq!(
        (config.login.user, config.login.password.as_deref()),
        (None, Some("secret"))
    );
    let identity = Some(("c.pem".into(), "k.pem".into()));
    assert_eq!(
        config.tls,
        Some(TlsOptions {
            ca: Some("/etc/a b.pem".into()),
            identity,
            ..TlsOptions::default()
        })
    );
    assert_eq!(
        parsed("rediss://host?insecure").tls,
        Some(TlsOptions {
            insecure: true,
            ..TlsOptions::default()
        })
    );
}

#[test]
fn urls_of_sockets_say_the_rest_in_options() {
    for scheme in ["redis+unix", "unix"] {
        let config = parsed(&format!(
            "{scheme}:///run/a%3Fb.sock?db=2&user=me&password=a%26b"
        ));
        assert_eq!(
            (config.layout, config.database),
            (ServerLayout::One(Address::Unix("/run/a?b.sock".into())), 2)
        );
        assert_eq!(
            (
                config.login.user.as_deref(),
                config.login.password.as_deref()
            ),
            (Some("me"), Some("a&b"))
        );
    }
}

#[test]
fn urls_of_sentinels_and_clusters_name_several_hosts() {
    let config =
        parsed("redis+sentinel://me:secret@one,two:70/main/4?sentinel_password=other&wait=2");
    assert_eq!(
        config.layout,
        ServerLayout::Sentinel {
            sentinels: vec![tcp("one", 26379), tcp("two", 70)],
            name: "main".to_owned()
        }
    );
    assert_eq!(
        (config.database, config.sentinel_login.password.as_deref()),
        (4, Some("other"))
    );
    assert_eq!(
        config.wait,
        Some(Wait {
            replicas: 2,
            timeout: WAIT_TIMEOUT
        })
    );

    let config = parsed("rediss+cluster://one:1,two:2?wait=1&wait_timeout=250ms");
    assert_eq!(
        config.layout,
        ServerLayout::Cluster(vec![tcp("one", 1), tcp("two", 2)])
    );
    assert!(config.tls.is_some());
    assert_eq!(
        config.wait,
        Some(Wait {
            replicas: 1,
            timeout: Duration::from_millis(250)
        })
    );
}

/// Each of these is refused with a sentence that has the word; none gives away what may be a
/// password.
#[test]
fn refusals_say_what_to_write_and_no_secret() {
    let cases = [
        ("redis:host", "two slashes"),
        ("redisx://host", "schemes"),
        ("redis://", "host"),
        ("redis://hunter2@host", "user:password@"),
        ("redis://:hunter2@host:port", "port"),
        ("redis://:hunter2@host:0", "port"),
        ("redis://:hunter2@::1", "brackets"),
        ("redis://:hunter2@host/zero", "number"),
        ("redis://:hunter2@host/-1", "number"),
        ("redis://:hun/ter2@host", "%2F"),
        ("redis://:hun#ter2@host", "%23"),
        ("redis://:hun?ter2@host", "%3F"),
        ("redis://:hunter2%zz@host", "%25"),
        ("redis://:hunter2%ff@host", "UTF-8"),
        ("redis://:hunter2@one,two", "redis+cluster"),
        ("redis://:hunter2@host?hunter2=1", "none of wait"),
        ("redis://host?password=hunter2", "before the host"),
        ("redis://host?insecure", "rediss://"),
        ("rediss://host?insecure=hunter2", "no value"),
        ("rediss://host?insecure&ca=a", "leave them out"),
        ("redis://host?server_name=a", "rediss://"),
        ("rediss://host?cert=a", "go together"),
        ("redis+unix://run/redis.sock", "three slashes"),
        (
            "redis+unix:///run/redis.sock?password=hunter2&password=hunter2",
            "twice",
        ),
        ("redis+sentinel://:hunter2@host", "mymaster"),
        ("redis+sentinel://:hunter2@one,,two/main", "host"),
        ("redis+cluster://:hunter2@host/1", "database 0"),
        ("redis://host?sentinel_password=hunter2", "redis+sentinel"),
        ("redis://host?wait=0", "1 at least"),
        ("redis://host?wait_timeout=1s", "wait=1"),
        ("redis://host?wait=1&wait_timeout=10s", "shorter"),
        ("redis://host?response_timeout=0s", "longer than none"),
        ("redis://host?response_timeout=soon", "250ms"),
    ];
    for (url, word) in cases {
        let Err(error) = RedisConfig::parse(url) else {
            panic!("{url} was read")
        };
        assert_eq!(error.kind(), ErrorKind::BadOption, "{url}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(word), "{url}: {text}");
        assert!(
            !text.contains("hun") && !text.contains("ter2"),
            "{url}: {text}"
        );
    }
}
