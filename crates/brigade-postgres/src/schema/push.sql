-- Storing jobs: the one body of every push, of this library and of applications. See `keys.sql` for
-- what it may be wrong about.

-- Stores jobs in this order, all or none. Arrays of one length, an element for each job; times in
-- milliseconds. `dependents` has the position, from 1, of the job that waits for this one, and
-- `kinds` is how a job waits for others. `is_new` is false for a duplicate, whose id is that of the
-- job that is there. Arrays without any value may be null as a whole. `announces`: the commit wakes
-- consumers; otherwise the call is a transaction of its own, which waits for no lock for long, and the
-- caller does so when it knows of the commit (`announce_committed`). It runs with the rights of the
-- schema's owner, so that a role may push without rights on tables.
create function brigade.push_many(queues text[], tasks text[], payloads text[], options text[],
    priorities integer[], dues timestamptz[], delays bigint[], withins bigint[], keeps bigint[],
    keys text[], partitions text[], uniques text[], unique_fors bigint[], dependents integer[],
    kinds text[], announces boolean, out ids bigint[], out is_new boolean[]) language plpgsql
    security definer {safe_path} as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  xid xid8;
  parts boolean;
  is_recorded boolean;
begin
  -- From here on `see_to_limits` waits for this transaction; one with an older snapshot may not see
  -- which queues are limited, so its jobs have partitions in any case.
  xid := pg_current_xact_id();
  select current_setting('transaction_isolation') <> 'read committed'
      or exists (select from brigade.queues q where q.parted and q.queue = any(queues)),
      {is_recording} into parts, is_recorded;
  if not parts and num_nonnulls(dues, delays, withins, keeps, keys, uniques, dependents, kinds) = 0 then
    ids := brigade.push_plain(queues, tasks, payloads, options, priorities, partitions, wall, is_recorded);
    is_new := array_fill(true, array[cardinality(ids)]);
  else
    select o.ids, o.is_new into ids, is_new from brigade.push_others(queues, tasks, payloads, options,
        priorities, dues, delays, withins, keeps, keys, partitions, uniques, unique_fors, dependents, kinds,
        wall, parts, is_recorded, announces) o;
  end if;
  if announces then perform brigade.announce(queues); end if;
end $$;

-- Most jobs are ready at once and have to do with no other job.
create function brigade.push_plain(queues text[], tasks text[], payloads text[], options text[],
    priorities integer[], partitions text[], wall timestamptz, is_recorded boolean) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  ids bigint[];
begin
  with stored as (
    insert into brigade.jobs (id, at, pushed_at, priority, state, is_plain, queue, task, payload, options, partition)
    select nextval('brigade.job_ids'), wall, wall, coalesce(priority, 0), 0, true, queue, task, payload, option, partition
      from unnest(queues, tasks, payloads, options, priorities, partitions)
        as g (queue, task, payload, option, priority, partition)
     where case when octet_length(queue) not between 1 and {name_bytes_max} or octet_length(task) > {name_bytes_max}
         or octet_length(payload) > {payload_bytes_max} or octet_length(option) > {payload_bytes_max}
         or octet_length(partition) > {key_bytes_max} then brigade.refuse_push() else true end
    returning id
  )
  select array_agg(id) into ids from stored;
  insert into brigade.statistics_new (minute, queue, task, pushed)
  select date_trunc('minute', wall), queue, coalesce(task, ''), count(*)
    from unnest(queues, tasks) as g (queue, task) group by queue, task;
  if is_recorded then
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt)
    select wall, id, queue, task, 'pushed', 0, 0 from unnest(ids, queues, tasks) as g (id, queue, task);
  end if;
  return coalesce(ids, '{}');
end $$;

create function brigade.refuse_push() returns boolean language plpgsql as $$
begin
  raise exception 'a value of a job is not one that a job can have' using errcode = 'check_violation';
end $$;

-- Jobs of which some are not plain.
create function brigade.push_others(queues text[], tasks text[], payloads text[], options text[],
    priorities integer[], dues timestamptz[], delays bigint[], withins bigint[], keeps bigint[],
    keys text[], partitions text[], uniques text[], unique_fors bigint[], dependents integer[],
    kinds text[], wall timestamptz, parts boolean, is_recorded boolean, announces boolean, out ids bigint[],
    out is_new boolean[]) language plpgsql {by_index} as $$
#variable_conflict use_column
declare
  held bigint;
  place integer;
begin
  if not announces then
    perform set_config('lock_timeout', '{lock_timeout_ms}', true);
  end if;
  ids := array(select nextval('brigade.job_ids') from generate_series(1, coalesce(cardinality(queues), 0)));
  is_new := array_fill(true, array[cardinality(ids)]);
  -- A look at each element of an array would read all before it.
  for place in select n from unnest(uniques) with ordinality as u (unique_key, n) where unique_key is not null loop
    held := brigade.hold_unique(queues[place], uniques[place], ids[place], wall + brigade.ms(unique_fors[place]), ids);
    continue when held is null;
    ids[place] := held;
    is_new[place] := false;
  end loop;

  with given as (
    select g.*, coalesce(due, wall + brigade.ms(delay), wall) as due_at,
        parts and (current_setting('transaction_isolation') <> 'read committed' or coalesce(q.parted, false)) as parted,
        key is not null and row_number() over (partition by g.queue, key order by id) > 1 as is_behind,
        key is null and unique_key is null and keep is null and dependent is null and kind is null as is_plain
      from unnest(ids, is_new, queues, tasks, payloads, options, priorities, dues, delays, withins,
          keeps, keys, partitions, uniques, dependents, kinds)
        as g (id, is_new, queue, task, payload, options, priority, due, delay, within, keep, key,
          partition, unique_key, dependent, kind)
      left join brigade.queues q on q.queue = g.queue
     where g.is_new
  ), stated as (
    select g.*, case when kind is not null then 2 when due_at > wall then 1
        when is_behind or (key is not null and exists (select from brigade.jobs j where j.queue = g.queue and j.key = g.key)) then 2
        else 0 end as state
      from given g
  ), checks as (
    insert into brigade.key_checks (queue, key)
    select queue, key from stated where key is not null and kind is null and state = 2 and not is_behind
  ), counted as (
    insert into brigade.statistics_new (minute, queue, task, pushed)
    select date_trunc('minute', wall), queue, coalesce(task, ''), count(*) from stated group by queue, task
  )
  insert into brigade.jobs (id, at, pushed_at, begins_by, priority, state, is_plain, queue, task, payload, options,
      keep_ms, key, unique_key, partition)
  select id, greatest(due_at, wall), wall, case when kind is null then wall + brigade.ms(within) end,
      coalesce(priority, 0), state, is_plain, queue, task, payload, options, keep, key, unique_key,
      coalesce(partition, key, case when parted then '' end)
    from stated
   where case when octet_length(queue) not between 1 and {name_bytes_max} or octet_length(task) > {name_bytes_max}
       or octet_length(payload) > {payload_bytes_max} or octet_length(options) > {payload_bytes_max}
       or octet_length(key) > {key_bytes_max} or octet_length(partition) > {key_bytes_max}
       or octet_length(unique_key) > {key_bytes_max} or keep > {far_seconds} * 1000 or not isfinite(due_at)
       then brigade.refuse_push() else true end
   order by id;

  if exists (select from unnest(dependents, kinds) as f (dependent, kind) where dependent is not null or kind is not null) then
    perform brigade.join_flow(ids, is_new, dependents, kinds, dues, delays, withins);
  end if;
  if is_recorded then
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt)
    select wall, j.id, j.queue, j.task, 'pushed', j.state, 0
      from unnest(ids, is_new) as g (id, is_new) join brigade.jobs j on j.id = g.id where g.is_new order by j.id;
  end if;
  if cardinality(array_remove(kinds, null)) > 0 then
    perform brigade.go_on(l.job) from brigade.links l where l.job = any(ids) and l.kind is not null and l.parents = 0;
  end if;
end $$;

-- Gives the jobs of a push their places in their flow. Raises BR003 if one of them is a duplicate.
create function brigade.join_flow(ids bigint[], is_new boolean[], dependents integer[], kinds text[],
    dues timestamptz[], delays bigint[], withins bigint[]) returns void language plpgsql as $$
#variable_conflict use_column
declare
  held bigint;
begin
  select id into held from unnest(ids, is_new, dependents, kinds) as g (id, is_new, dependent, kind)
   where not is_new and (dependent is not null or kind is not null) limit 1;
  if found then
    raise exception 'job % has the unique key of one of its jobs and is not settled', held using errcode = 'BR003';
  end if;
  insert into brigade.links (job, dependent, place, parents, parents_left, kind, due, delay_ms, within_ms)
  select g.id, ids[dependent],
      case when dependent is not null then row_number() over (partition by dependent order by n) - 1 end,
      coalesce(parents, 0), coalesce(parents, 0), kind, due, delay, within
    from unnest(ids, dependents, kinds, dues, delays, withins) with ordinality as g (id, dependent, kind, due, delay, within, n)
    left join (select of, count(*) as parents from unnest(dependents) as of where of is not null group by of) counted on of = n
   where dependent is not null or kind is not null;
end $$;
