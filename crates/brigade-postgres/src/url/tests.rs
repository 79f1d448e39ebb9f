//! What URLs mean, and that no error has a secret.

use super::*;

fn parsed(url: &str) -> PostgresConfig {
    PostgresConfig::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn tcp_of(name: &str, port: u16) -> HostAddress {
    tcp(name, "", port)
}

#[test]
fn urls_say_where_and_how() {
    let config = parsed("postgres://localhost/jobs");
    assert_eq!(config.hosts, [tcp_of("localhost", 5432)]);
    assert!(config.user.is_none() && config.password.is_none() && config.tls.is_none());
    assert_eq!(config.database.as_deref(), Some("jobs"));
    assert_eq!(config.target, SessionTarget::Any);
    assert_eq!(
        (config.connect_timeout, config.answer_timeout),
        (CONNECT_TIMEOUT, ANSWER_TIMEOUT)
    );

    let config = parsed("postgresql://me:p%40s%2Fs:1@[::1]:7000/a%2Fb?response_timeout=2s");
    assert_eq!(config.hosts, [tcp_of("::1", 7000)]);
    assert_eq!(config.user.as_deref(), Some("me"));
    assert_eq!(config.password.as_deref(), Some("p@s/s:1"));
    assert_eq!(config.database.as_deref(), Some("a/b"));
    assert_eq!(config.answer_timeout, Duration::from_secs(2));

    let config = parsed("postgres://me@/jobs?host=/run/pg&port=7000");
    assert_eq!(config.user.as_deref(), Some("me"));
    let socket_at = |path: &str| [HostAddress::Unix(path.into())];
    assert_eq!(config.hosts, socket_at("/run/pg/.s.PGSQL.7000"));
    let config = parsed("postgres://%2Frun%2Fpg:7000/jobs");
    assert_eq!(config.hosts, socket_at("/run/pg/.s.PGSQL.7000"));
    assert!(matches!(
        &parsed("postgres:///jobs").hosts[..],
        [HostAddress::Unix(_)]
    ));

    let config = parsed("postgres:///?user=me&password=geheim&dbname=jobs&host=a&connections=3");
    assert_eq!(
        (config.hosts, config.connections),
        (vec![tcp_of("a", 5432)], 3)
    );
    assert_eq!(config.password.as_deref(), Some("geheim"));
    let config = parsed("postgres://a?connect_timeout=3&options=-c%20work_mem%3D5MB&pooler=none");
    assert_eq!(config.connect_timeout, Duration::from_secs(3));
    assert_eq!(config.options.as_deref(), Some("-c work_mem=5MB"));
    assert_eq!(config.has_transaction_pooler, Some(false));
}

#[test]
fn several_hosts_are_one_cluster() {
    let config = parsed("postgres://a:1,b,[::1]:3/jobs");
    assert_eq!(
        config.hosts,
        [tcp_of("a", 1), tcp_of("b", 5432), tcp_of("::1", 3)]
    );
    assert_eq!(config.target, SessionTarget::ReadWrite);
    let config = parsed("postgres:///jobs?host=a,b&port=1,2&target_session_attrs=any");
    assert_eq!(config.hosts, [tcp_of("a", 1), tcp_of("b", 2)]);
    assert_eq!(config.target, SessionTarget::Any);
    let config = parsed("postgres://a,b/jobs?port=7&hostaddr=10.0.0.1,10.0.0.2");
    assert_eq!(
        config.hosts,
        [tcp("a", "10.0.0.1", 7), tcp("b", "10.0.0.2", 7)]
    );
    let one = parsed("postgres://a/jobs?target_session_attrs=read-write");
    assert_eq!(one.target, SessionTarget::ReadWrite);
}

#[test]
fn tls_has_the_options_of_the_other_stores_and_the_names_of_libpq() {
    assert_eq!(
        parsed("postgres://a?sslmode=require").tls,
        Some(TlsOptions::default())
    );
    assert_eq!(parsed("postgres://a?sslmode=disable").tls, None);
    let libpq = "postgres://a?sslmode=verify-full&sslrootcert=ca.pem&sslcert=c.pem&sslkey=k.pem";
    let ours = "postgres://a?sslmode=verify-full&ca=ca.pem&cert=c.pem&key=k.pem";
    let tls = parsed(libpq).tls;
    assert_eq!(tls, parsed(ours).tls);
    assert_eq!(tls.and_then(|tls| tls.ca), Some("ca.pem".into()));
    let system = parsed("postgres://a?sslmode=require&sslrootcert=system").tls;
    assert_eq!(system, Some(TlsOptions::default()));
    let insecure = parsed("postgres://a?sslmode=require&insecure").tls;
    assert!(insecure.is_some_and(|tls| tls.insecure));
}

#[test]
fn what_is_wrong_is_said_without_the_password() {
    for (url, part) in [
        ("postgres:geheim", "two slashes"),
        ("mysql://me:geheim@host", "postgres or postgresql"),
        ("postgres://me:geheim@host:x", "a port"),
        ("postgres://me:geheim@host:0", "a port"),
        ("postgres://me:geheim@::1", "brackets"),
        ("postgres://me:geheim@a,b?port=1,2,3", "one for each host"),
        ("postgres://me:geheim@a,b?hostaddr=1.2.3.4", "as many"),
        ("postgres://me:geheim@a?host=b", "both"),
        ("postgres://me:geheim@a?user=me", "both"),
        ("postgres://me:geheim@a?password=geheim", "both"),
        ("postgres://me:geheim@a/x?dbname=y", "both"),
        ("postgres://me:geheim@a?sslmode=prefer", "sslmode=require"),
        ("postgres://me:geheim@a?sslmode=verify-ca", "verify-full"),
        ("postgres://me:geheim@a?sslmode=geheim", "sslmode is"),
        ("postgres://me:geheim@a?ca=x", "sslmode=require"),
        (
            "postgres://me:geheim@a?sslmode=require&ca=x&sslrootcert=y",
            "the same",
        ),
        (
            "postgres://me:geheim@a?target_session_attrs=read-only",
            "any or read-write",
        ),
        ("postgres://me:geheim@a?connect_timeout=0", "1 second"),
        (
            "postgres://me:geheim@a?connect_timeout=geheim",
            "a time like",
        ),
        ("postgres://me:geheim@a?connections=1", "from 2 to"),
        ("postgres://me:geheim@a?pooler=geheim", "pooler is"),
        ("postgres://me:geheim@a?ns=shop", "another database"),
        ("postgres://me:geheim@a?geheim=geheim", "none of"),
        ("postgres://me:ge/heim@host/x", "%2F"),
    ] {
        let Err(error) = PostgresConfig::parse(url) else {
            panic!("{url} was taken")
        };
        let text = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::BadOption, "{url}");
        assert!(text.contains(part), "{url}: {text}");
        assert!(!text.contains("geheim"), "{url}: {text}");
    }
}
