//! What `check` finds: settings of the server that lose jobs or slow them down, transactions and
//! slots that keep old rows, tables that grew, and how this process learns of new jobs.
//!
//! Nothing here changes anything. What the user may not see is said, not taken for good. Queues and
//! their consumers are in `check_queues`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;

use super::announcements::{WakeUp, probe};
use super::database::{Database, Statement};
use crate::error::Error;
use brigade_core::finding::{Finding, Level};

const SETTINGS: Statement = Statement::read(
    "look at the server's settings",
    "select name, setting from pg_settings where name in ('fsync', 'full_page_writes', \
        'synchronous_commit', 'autovacuum', 'track_counts', 'statement_timeout', 'lock_timeout', \
        'idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout', \
        'default_transaction_isolation')",
);
const SERVER: Statement = Statement::read(
    "look at the server",
    "select pg_is_in_recovery(), clock_timestamp(), (select count(*) from pg_stat_activity where \
        backend_type = 'client backend'), current_setting('max_connections')::bigint, (select \
        max(age(datfrozenxid))::bigint from pg_database)",
);
/// Sessions whose snapshot keeps old rows, and prepared transactions; the oldest ones.
const TRANSACTIONS: Statement = Statement::read(
    "look at long transactions",
    "select 'process ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '?') || ', ' \
        || coalesce(state, '?') || ')', extract(epoch from brigade.now() - \
        xact_start)::float8 from pg_stat_activity where pid <> pg_backend_pid() and xact_start is \
        not null and backend_type = 'client backend' and (backend_xmin is not null or backend_xid \
        is not null) union all select 'prepared transaction ' || gid, extract(epoch from \
        brigade.now() - prepared)::float8 from pg_prepared_xacts order by 2 desc limit 5",
);
const HIDDEN: Statement = Statement::read(
    "look at other users' sessions",
    "select not (pg_has_role('pg_read_all_stats', 'member') or pg_has_role('pg_monitor', 'member'))",
);
const SLOTS: Statement = Statement::read(
    "look at replication slots",
    "select slot_name::text, case when pg_is_in_recovery() then null else \
        pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint end from pg_replication_slots \
        where not active and (restart_lsn is not null or xmin is not null or catalog_xmin is not \
        null) limit 5",
);
const TABLES: Statement = Statement::read(
    "look at the tables",
    "select s.relname::text, s.n_live_tup, s.n_dead_tup, pg_total_relation_size(s.relid), \
        coalesce(c.reloptions::text[] && array['autovacuum_enabled=false', \
        'autovacuum_enabled=off'], false) from pg_stat_user_tables s join pg_class c on c.oid = \
        s.relid where s.schemaname = 'brigade'",
);

/// A transaction that is open for so long keeps rows that others have deleted.
const TRANSACTION_LONG: Duration = Duration::from_secs(60);
/// A limit below this ends statements that do nothing wrong.
const TIMEOUT_LOW: Duration = Duration::from_secs(10);
/// The session that listens sends something every 15 s.
const IDLE_TIMEOUT_LOW: Duration = Duration::from_secs(20);
/// Dead rows of a table that autovacuum should have removed, and how many for each live one.
const DEAD_ROWS_MIN: i64 = 100_000;
const DEAD_ROWS_FACTOR: i64 = 2;
/// A table that is larger than this, and than so much for each row, is mostly empty.
const EMPTY_BYTES_MIN: i64 = 256 << 20;
const ROW_BYTES_MAX: i64 = 32 << 10;
const TRANSACTION_AGE_MAX: i64 = 1_000_000_000;
const CLOCK_APART_MAX: Duration = Duration::from_secs(5);

impl Database {
    /// Findings about the server.
    pub(super) async fn check_server(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let settings = self.rows(SETTINGS, &[]).await?;
        let settings: HashMap<String, String> = settings
            .iter()
            .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
            .collect();
        findings.extend(safety(&settings));
        findings.extend(limits(&settings));
        findings.extend(self.row(SERVER, &[]).await?.iter().flat_map(server));
        for row in self.rows(TRANSACTIONS, &[]).await? {
            findings.extend(long_transaction(&row));
        }
        let hidden = self.row(HIDDEN, &[]).await?;
        if hidden.is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            findings.push(Finding::new(
                Level::Note,
                "this user does not see other users' transactions, so long ones are not found",
                "grant it pg_read_all_stats, or run the check as an administrator",
            ));
        }
        for row in self.rows(SLOTS, &[]).await? {
            findings.extend(idle_slot(&row));
        }
        for row in self.rows(TABLES, &[]).await? {
            findings.extend(table(&row));
        }
        findings.push(self.wake_up().await);
        Ok(findings)
    }

    /// How consumers learn of new jobs.
    async fn wake_up(&self) -> Finding {
        if self.has_transaction_pooler() {
            return Finding::new(
                Level::Warning,
                "a pooler gives each transaction another session: consumers look for jobs every \
                    0.1 to 2 s instead of being woken (LISTEN), and each statement is planned again",
                "let Brigade connect past the pooler, or by one in the mode session",
            );
        }
        let wake_up = match self.announcements.wake_up() {
            WakeUp::Unknown => probe(&self.pool.connector).await,
            known => known,
        };
        match wake_up {
            WakeUp::Listening => Finding::new(
                Level::Note,
                "consumers are woken by notifications (LISTEN)",
                "",
            ),
            WakeUp::Polling(why) => Finding::new(
                Level::Warning,
                format!(
                    "consumers look for jobs every 0.1 to 2 s, as notifications do not arrive: {why}"
                ),
                "let Brigade connect to the primary, past a pooler",
            ),
            WakeUp::Unknown => Finding::new(
                Level::Warning,
                "it could not be found out whether notifications arrive: a second connection failed",
                "raise max_connections",
            ),
        }
    }
}

/// Whether what was acknowledged survives a crash, and whether old rows are removed.
fn safety(settings: &HashMap<String, String>) -> Vec<Finding> {
    let is_off = |name: &str| settings.get(name).is_some_and(|value| value == "off");
    let mut findings = Vec::new();
    let mut add =
        |level, what: &str, advice: &str| findings.push(Finding::new(level, what, advice));
    if is_off("fsync") {
        add(
            Level::Problem,
            "fsync is off: when the host crashes, jobs and the whole database may be lost",
            "set fsync = on",
        );
    }
    if is_off("full_page_writes") {
        add(
            Level::Warning,
            "full_page_writes is off: a crash of the host may damage the database",
            "set full_page_writes = on, unless the filesystem writes whole pages",
        );
    }
    if is_off("synchronous_commit") {
        add(
            Level::Warning,
            "synchronous_commit is off: a crash loses acknowledged jobs of the last moment",
            "set synchronous_commit = on for this user where each acknowledged job matters",
        );
    }
    if is_off("autovacuum") || is_off("track_counts") {
        add(
            Level::Problem,
            "autovacuum is off: rows of settled jobs are never removed, and hand-outs slow down",
            "set autovacuum = on and track_counts = on",
        );
    }
    if settings
        .get("default_transaction_isolation")
        .is_some_and(|level| matches!(&**level, "serializable" | "repeatable read"))
    {
        add(
            Level::Warning,
            "default_transaction_isolation is above read committed behind a pooler: each statement \
                needs a transaction that sets its own level, three times the way to the server",
            "set it to read committed for this user",
        );
    }
    findings
}

/// Limits of time that are too short.
fn limits(settings: &HashMap<String, String>) -> Vec<Finding> {
    let of = |name: &str| {
        let millis = settings.get(name)?.parse::<u64>().ok()?;
        (millis > 0).then(|| Duration::from_millis(millis))
    };
    let lows = [
        (
            "statement_timeout",
            TIMEOUT_LOW,
            "statements of Brigade are ended",
        ),
        (
            "lock_timeout",
            TIMEOUT_LOW,
            "statements of Brigade are ended",
        ),
        ("transaction_timeout", TIMEOUT_LOW, "transactions are ended"),
        (
            "idle_in_transaction_session_timeout",
            TIMEOUT_LOW,
            "a transaction of yours in which you push is ended",
        ),
        (
            "idle_session_timeout",
            IDLE_TIMEOUT_LOW,
            "the session that listens for jobs is ended",
        ),
    ];
    let low = lows.into_iter().filter_map(|(name, least, effect)| {
        let limit = of(name).filter(|limit| *limit < least)?;
        Some(Finding::new(
            Level::Warning,
            format!("{name} is {limit:?} for this user: under load {effect}"),
            format!("alter role .. set {name} = '{} s', or 0", least.as_secs()),
        ))
    });
    low.collect()
}

/// What the server is and how full it is.
fn server(row: &Row) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add =
        |level, what: String, advice: &str| findings.push(Finding::new(level, what, advice));
    if row.try_get(0).unwrap_or(false) {
        add(
            Level::Problem,
            "this server is a standby: jobs can be looked at, and nothing else".to_owned(),
            "connect to the primary, or name all hosts in the URL",
        );
    }
    if let Ok(time) = row.try_get::<_, SystemTime>(1) {
        let own = SystemTime::now();
        let apart = own.duration_since(time).unwrap_or_else(|e| e.duration());
        if apart > CLOCK_APART_MAX {
            add(
                Level::Warning,
                format!(
                    "the server's clock and this host's are {} s apart",
                    apart.as_secs()
                ),
                "the server's counts; let NTP keep both",
            );
        }
    }
    let number = |column: usize| row.try_get::<_, i64>(column).unwrap_or(0);
    let (used, most) = (number(2), number(3));
    if used.saturating_mul(10) > most.saturating_mul(9) {
        add(
            Level::Warning,
            format!("{used} of {most} connections of the server are in use"),
            "raise max_connections, or use fewer with ?connections=",
        );
    }
    if number(4) > TRANSACTION_AGE_MAX {
        add(
            Level::Problem,
            "old transaction numbers were not cleaned up for a long time: the server will stop \
                taking writes"
                .to_owned(),
            "find what holds autovacuum up, or run vacuum freeze",
        );
    }
    findings
}

fn long_transaction(row: &Row) -> Option<Finding> {
    let (who, seconds): (String, f64) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
    if seconds < TRANSACTION_LONG.as_secs_f64() {
        return None;
    }
    Some(Finding::new(
        Level::Warning,
        format!(
            "{who} has been in one transaction for {seconds:.0} s: rows of jobs that ended since \
                cannot be removed, and hand-outs slow down"
        ),
        "end it (pg_terminate_backend, rollback prepared), or make it shorter",
    ))
}

fn idle_slot(row: &Row) -> Option<Finding> {
    let name: String = row.try_get(0).ok()?;
    let kept: Option<i64> = row.try_get(1).ok()?;
    let kept = kept.map_or(String::new(), |bytes| {
        format!(" ({} MiB so far)", bytes >> 20)
    });
    Some(Finding::new(
        Level::Warning,
        format!(
            "nothing reads replication slot {name}: the server keeps its log{kept} and old rows for it"
        ),
        "start its reader, or drop it (pg_drop_replication_slot)",
    ))
}

/// A table that grows.
fn table(row: &Row) -> Vec<Finding> {
    let name: String = row.try_get(0).unwrap_or_default();
    let number = |column: usize| row.try_get::<_, i64>(column).unwrap_or(0);
    let (live, dead, bytes) = (number(1), number(2), number(3));
    let mut findings = Vec::new();
    let mut add =
        |level, what: String, advice: &str| findings.push(Finding::new(level, what, advice));
    if row.try_get(4).unwrap_or(false) {
        add(
            Level::Problem,
            format!("autovacuum is off for the table brigade.{name}"),
            "alter table .. reset (autovacuum_enabled)",
        );
    }
    if dead > DEAD_ROWS_MIN && dead > live.saturating_mul(DEAD_ROWS_FACTOR) {
        add(
            Level::Warning,
            format!("the table brigade.{name} has {dead} dead rows and {live} live ones"),
            "find the transaction that keeps them; then vacuum it, or let autovacuum do so",
        );
    } else if bytes > EMPTY_BYTES_MIN && bytes / live.max(1) > ROW_BYTES_MAX {
        add(
            Level::Note,
            format!(
                "the table brigade.{name} takes {} MiB for {live} rows",
                bytes >> 20
            ),
            "vacuum (full, analyze) it while nothing runs",
        );
    }
    findings
}
