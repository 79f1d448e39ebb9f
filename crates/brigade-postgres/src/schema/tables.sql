-- The tables. A live job is a row of `jobs`. A payload that makes the row longer than 2 kB is kept apart
-- by the server (TOAST), so a lease writes no more than that. When the job ends the row is deleted;
-- what is kept of it goes to `ended`. States: 0 ready, 1 scheduled, 2 blocked, 3 leased, 4 retrying,
-- 5 done, 6 dead, 7 cancelled. Texts that are compared have the collation "C". A role that only pushes may
-- call `push_many` with anything, so that function refuses what chores and settlements could not work
-- with; checks of the tables would cost each call a reading of their texts.

create table brigade.facts (name text primary key, value text not null);

create sequence brigade.job_ids;

-- A lease changes the first columns; the server's log need not repeat the last ones if the new row is on
-- the page of the old one, for which pages keep room.
create table brigade.jobs (
  id          bigint primary key,
  -- Ready: since when it waits. Scheduled, retrying: when it is due. Leased: the end of the lease.
  at          timestamptz not null,
  token       bigint not null default 0,
  pushed_at   timestamptz not null,
  priority    integer not null default 0,
  attempts    integer not null default 0,
  failed      integer not null default 0,
  crashed     integer not null default 0,
  interrupted integer not null default 0,
  lost        integer not null default 0,
  unserved    integer not null default 0,
  state       smallint not null,
  -- Its end has to do with no other job and leaves nothing behind.
  is_plain    boolean not null,
  leased_at   timestamptz,
  -- A number of `holders`.
  holder      bigint,
  begins_by   timestamptz,
  -- When the time of its attempts began, if not with the push.
  began_at    timestamptz,
  unserved_at timestamptz,
  keep_ms     bigint,
  queue       text collate "C" not null,
  task        text collate "C",
  key         text collate "C",
  partition   text collate "C",
  unique_key  text collate "C",
  -- Why it is to be cancelled, while it is leased.
  cancel      text,
  -- As `brigade_core::options` writes them; null for none.
  options     text,
  -- Records of attempts, each a JSON text, the oldest first.
  history     text[],
  payload     text not null
) with (fillfactor = 50, toast_tuple_target = 256, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.5);
create index jobs_ready   on brigade.jobs (queue, priority desc, id) where state = 0;
create index jobs_turn    on brigade.jobs (queue, partition, priority desc, id) where state = 0 and partition is not null;
create index jobs_due     on brigade.jobs (at) where state in (1, 4);
create index jobs_leased  on brigade.jobs (at) where state = 3;
create index jobs_running on brigade.jobs (queue, at) where state = 3 and partition is not null;
create index jobs_waiting on brigade.jobs (queue, id) where state in (1, 2, 4);
create index jobs_late    on brigade.jobs (begins_by) where begins_by is not null and state <> 3;
create index jobs_key     on brigade.jobs (queue, key, id) where key is not null;
create index jobs_cancel  on brigade.jobs (holder) where cancel is not null;

create table brigade.ended (
  id          bigint primary key,
  ended_at    timestamptz not null,
  remove_at   timestamptz,
  pushed_at   timestamptz not null,
  began_at    timestamptz,
  begins_by   timestamptz,
  unserved_at timestamptz,
  keep_ms     bigint,
  token       bigint not null,
  priority    integer not null,
  attempts    integer not null,
  failed      integer not null,
  crashed     integer not null,
  interrupted integer not null,
  lost        integer not null,
  unserved    integer not null,
  state       smallint not null check (state between 5 and 7),
  is_plain    boolean not null,
  queue       text collate "C" not null,
  task        text collate "C",
  key         text collate "C",
  partition   text collate "C",
  unique_key  text collate "C",
  payload     text not null,
  options     text,
  history     text[],
  reason      text,
  result      text
);
create index ended_in     on brigade.ended (queue, state, id);
create index ended_state  on brigade.ended (state, id);
create index ended_remove on brigade.ended (remove_at) where remove_at is not null;

-- While a job with a unique key is live, and until `until` in any case.
create table brigade.unique_keys (
  queue text collate "C", unique_key text collate "C", job bigint not null, until timestamptz,
  primary key (queue, unique_key)
);
create index unique_keys_until on brigade.unique_keys (until) where until is not null;

-- Keys of which a job was pushed as blocked; whether it still is has to be looked at once more.
create table brigade.key_checks (
  id bigint generated always as identity primary key,
  queue text collate "C" not null, key text collate "C" not null
);

-- What of a flow a job is, while it is live or ended.
create table brigade.links (
  job          bigint primary key,
  -- The job that waits for this one, and the place of this one among those that it waits for.
  dependent    bigint,
  place        integer,
  parents      integer not null default 0,
  parents_left integer not null default 0,
  missed       integer not null default 0,
  -- `DependentKind`, if it waits for others; then its times, which begin when it goes on.
  kind         text,
  due          timestamptz check (isfinite(due)),
  delay_ms     bigint check (delay_ms <= {far_seconds} * 1000),
  within_ms    bigint check (within_ms <= {far_seconds} * 1000)
);
create index links_dependent on brigade.links (dependent) where dependent is not null;
create table brigade.parent_results (
  job bigint, place integer, result text, missed text,
  primary key (job, place)
);
create table brigade.flow_ends (
  job bigint primary key, dependent bigint not null, place integer, result text, missed text
);
create table brigade.flow_retries (job bigint primary key);
create table brigade.cancels (job bigint primary key, after bigint not null, reason text not null);

create table brigade.queues (
  queue  text collate "C" primary key,
  paused boolean not null default false,
  -- As `brigade_core::limits` writes them.
  limits text,
  -- Whether each job has a partition.
  parted boolean not null default false
);
-- The partition whose turn was last.
create table brigade.turns (
  queue text collate "C" primary key, partition text collate "C" not null
) with (fillfactor = 50);
-- Limited queues in which transactions that were open may have pushed jobs without a partition.
create table brigade.partings (
  queue text collate "C" primary key, behind_xid bigint not null, after bigint not null
);
create table brigade.starts (
  queue text collate "C" not null, partition text collate "C" not null, at timestamptz not null
);
create index starts_at        on brigade.starts (queue, at);
create index starts_partition on brigade.starts (queue, partition, at);

create table brigade.schedules (
  name    text collate "C" primary key,
  plan    text not null,
  job     text not null,
  tick    timestamptz not null,
  next_at timestamptz not null
);
create index schedules_next on brigade.schedules (next_at);

-- Processes that hold leases or ask for jobs.
create table brigade.holders (
  number bigint generated always as identity primary key,
  name   text collate "C" not null unique,
  seen   timestamptz not null
);
create table brigade.asks (
  holder bigint not null, asks bigint not null, asked_at timestamptz not null, queues text[] not null,
  primary key (holder, asks)
);
create table brigade.consumers (
  id text collate "C" primary key, until timestamptz not null, consumer text not null
);
create index consumers_until on brigade.consumers (until);

-- What transactions counted, for a queue and a task; added up in `statistics` later. The task is '' for
-- jobs without one. Of jobs that waited, or attempts that ran, there is a row for each bucket of the
-- histogram: how many they are, and the sum in milliseconds.
create table brigade.statistics_new (
  minute timestamptz not null, queue text collate "C" not null, task text collate "C" not null,
  pushed bigint not null default 0, done bigint not null default 0, failed bigint not null default 0,
  crashed bigint not null default 0, interrupted bigint not null default 0,
  dead bigint not null default 0, cancelled bigint not null default 0,
  wait_bucket integer, waited bigint, wait_ms bigint,
  run_bucket integer, ran bigint, run_ms bigint
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.5);
-- `wait` and `run`: the sum in milliseconds, then the counts of the buckets; null for none.
create type brigade.minute_counts as (
  minute timestamptz, queue text, task text, pushed bigint, done bigint, failed bigint, crashed bigint,
  interrupted bigint, dead bigint, cancelled bigint, wait bigint[], run bigint[]
);
create table brigade.statistics (
  minute timestamptz, queue text collate "C", task text collate "C",
  pushed bigint not null default 0, done bigint not null default 0, failed bigint not null default 0,
  crashed bigint not null default 0, interrupted bigint not null default 0,
  dead bigint not null default 0, cancelled bigint not null default 0,
  wait bigint[], run bigint[],
  -- In the order in which they were added, to forget the oldest.
  number bigint generated always as identity unique,
  primary key (queue, minute, task)
) with (fillfactor = 70);
create index statistics_minute on brigade.statistics (minute);

-- Events of transactions, not in order; a reader gives them numbers when it moves them to `events`.
create table brigade.events_new (
  id bigint generated always as identity primary key, at timestamptz not null, job bigint not null,
  queue text not null, task text, kind text not null, state smallint not null,
  attempt integer not null, reason text, cost text
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.5);
create table brigade.events (
  seq bigint primary key, at timestamptz not null, job bigint not null, queue text not null,
  task text, kind text not null, state smallint not null, attempt integer not null, reason text,
  cost text
);

-- Every job, whichever table it is in.
create view brigade.all_jobs as
select j.id, j.queue, j.task, j.state, j.payload, j.priority, j.key, j.partition, j.options,
       j.pushed_at, case when j.state in (1, 4) then j.at end as due_at, j.begins_by,
       case when j.state = 3 then j.leased_at end as leased_at, null::timestamptz as ended_at,
       case when j.state = 3 then j.at end as lease_until, j.failed, j.crashed, j.attempts,
       j.interrupted, j.lost, j.unserved, j.unserved_at, h.name as holder, j.cancel,
       null::text as result, null::text as reason, j.history, l.dependent, l.parents,
       l.parents_left, l.missed,
       case when l.parents_left > 0 then array(
         select m.id from brigade.links of join brigade.jobs m on m.id = of.job
          where of.dependent = j.id order by m.id limit 20) end as unsettled
  from brigade.jobs j
  left join brigade.holders h on h.number = j.holder and j.state = 3
  left join brigade.links l on l.job = j.id and not j.is_plain
union all
select e.id, e.queue, e.task, e.state, e.payload, e.priority, e.key, e.partition, e.options,
       e.pushed_at, null, e.begins_by, null, e.ended_at, null, e.failed, e.crashed, e.attempts,
       e.interrupted, e.lost, e.unserved, e.unserved_at, null, null, e.result, e.reason, e.history,
       l.dependent, l.parents, l.parents_left, l.missed, null::bigint[]
  from brigade.ended e left join brigade.links l on l.job = e.id and not e.is_plain;
