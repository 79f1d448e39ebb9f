-- Handing out jobs. A hand-out looks at ranges of the index of ready jobs, in the order given: all of
-- a queue from its head (`priority` is null), or those of a priority behind a place. See `floors.rs`.
--
-- The settings of these functions keep their plans at the indexes: a plan that was made while a table
-- was small is used for long after it has grown.

-- Up to `most` jobs; `lease_ms` is null for jobs that are taken: they are done at once. For each range
-- that was looked at, a row without a job says how long that took, in microseconds.
--
-- A lease does not wait for the disk. If the server crashes before it is there, the job is ready
-- again as if it had never been handed out; the token of its next lease is another all the same.
create function brigade.lease(queues text[], priorities integer[], floors bigint[], most integer,
    lease_ms bigint, holder bigint) returns table (range integer, took bigint, id bigint, token bigint,
    priority integer, payload text, task text, options text, failed integer, crashed integer,
    lost integer, unserved integer, unserved_at timestamptz, began_at timestamptz) language plpgsql
    {by_index} set enable_bitmapscan = off set enable_sort = off
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  room integer := most;
  picked bigint[];
  leased integer;
  began timestamptz;
  settings brigade.queues;
  whole_queue text;
  has_waited boolean := false;
begin
  if lease_ms is not null then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  for place in 1 .. cardinality(queues) loop
    exit when room <= 0;
    select * into settings from brigade.queues q where q.queue = queues[place];
    continue when settings.paused;
    -- Its partitions were looked at as a whole, whatever the range.
    continue when queues[place] = whole_queue;
    began := clock_timestamp();
    if settings.limits is null then
      picked := brigade.pick(queues[place], priorities[place], floors[place], room, wall);
    else
      -- It waits for no other transaction while it has what another one may wait for.
      picked := brigade.start_within(queues[place], settings.limits::jsonb, priorities[place], floors[place],
          room, not has_waited);
      has_waited := true;
      if brigade.is_by_partition(settings.limits::jsonb) then
        whole_queue := queues[place];
      end if;
      continue when picked is null;
    end if;
    range := place;
    took := extract(epoch from clock_timestamp() - began) * 1000000;
    return next;
    continue when cardinality(picked) = 0;
    return query select place, null::bigint, l.* from brigade.lease_picked(picked, lease_ms, holder, wall) l;
    get diagnostics leased = row_count;
    if lease_ms is null then
      perform brigade.end_taken(picked);
    end if;
    exit when leased < cardinality(picked);
    room := room - leased;
  end loop;
end $$;

-- Locks the first ready jobs of a range that may be handed out.
create function brigade.pick(queue text, priority integer, floor bigint, most integer, wall timestamptz)
    returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  picked bigint[];
  has_keys boolean;
begin
  if priority is null then
    select array_agg(id), bool_or(key is not null) into picked, has_keys from (
      select j.id, j.key from brigade.jobs j where j.state = 0 and j.queue = pick.queue
         and (j.begins_by is null or j.begins_by >= wall)
       order by j.priority desc, j.id limit most for update skip locked) ready;
  else
    select array_agg(id), bool_or(key is not null) into picked, has_keys from (
      select j.id, j.key from brigade.jobs j where j.state = 0 and j.queue = pick.queue
         and j.priority = pick.priority and j.id > floor
         and (j.begins_by is null or j.begins_by >= wall)
       order by j.id limit most for update skip locked) ready;
  end if;
  if has_keys then
    picked := brigade.first_of_their_keys(picked);
  end if;
  return coalesce(picked, '{}');
end $$;

-- Those of these ready jobs that are the first of their keys; the others are blocked from now on. One
-- whose key is locked by another transaction is left for the next hand-out.
create function brigade.first_of_their_keys(picked bigint[]) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  kept bigint[] := '{}';
  job record;
begin
  for job in select j.id, j.queue, j.key from unnest(picked) with ordinality as g (id, n)
      join brigade.jobs j on j.id = g.id order by n loop
    if job.key is null then
      kept := kept || job.id;
    elsif pg_try_advisory_xact_lock(brigade.lock_of_key(job.queue, job.key)) then
      if brigade.is_behind(job.queue, job.key, job.id) then
        update brigade.jobs j set state = 2 where j.id = job.id;
      else
        kept := kept || job.id;
      end if;
    end if;
  end loop;
  return kept;
end $$;

-- Leases locked jobs; gives them in this order, as the columns of `lease`. No other
-- lease of a job has its token, not even one that a crash of the server undid: it has the time in it.
-- Those whose payloads would be too much for one answer stay as they are.
create function brigade.lease_picked(picked bigint[], lease_ms bigint, holder bigint, wall timestamptz)
    returns table (id bigint, token bigint, priority integer, payload text, task text, options text,
    failed integer, crashed integer, lost integer, unserved integer, unserved_at timestamptz,
    began_at timestamptz) language plpgsql as $$
#variable_conflict use_column
declare
  moment timestamptz := brigade.now();
  ends timestamptz := moment + brigade.ms(coalesce(lease_ms, 60000));
  token_min bigint := extract(epoch from moment) * 1000;
begin
  return query with before as materialized (
    select j.id, j.at, g.place, p.payload, p.task, p.options, p.lost, p.unserved, p.unserved_at,
        coalesce(p.began_at, p.pushed_at) as began_at,
        sum(octet_length(p.payload)) over (order by g.place rows unbounded preceding) as bytes
      from unnest(picked) with ordinality as g (id, place)
      join brigade.jobs j on j.id = g.id join brigade.payloads p on p.job = j.id
  ), leased as (
    update brigade.jobs j set state = 3, token = greatest(j.token + 1, token_min), attempts = j.attempts + 1,
        at = ends, leased_at = wall, holder = lease_picked.holder, cancel = null
      from before b where j.id = b.id and (b.bytes <= {hand_out_bytes_max} or b.place = 1)
    returning j.id, j.token, j.priority, j.failed, j.crashed, j.queue, j.attempts, b.at as since, b.place,
        b.payload, b.task, b.options, b.lost, b.unserved, b.unserved_at, b.began_at
  ), counted as (
    insert into brigade.statistics_new (minute, queue, task, wait)
    select date_trunc('minute', wall), queue, coalesce(task, ''),
        brigade.histogram(array_agg((extract(epoch from greatest(wall - since, '0')) * 1000)::bigint))
      from leased group by queue, task
  ), recorded as (
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt)
    select wall, id, queue, task, 'leased', 3, attempts from leased
     where brigade.is_recording(wall) order by place
  )
  select f.id, f.token, f.priority, f.payload, f.task, f.options, f.failed, f.crashed, f.lost, f.unserved,
      f.unserved_at, f.began_at from leased f order by f.place;
end $$;

-- Handed out and done at once.
create function brigade.end_taken(picked bigint[]) returns void language plpgsql as $$
#variable_conflict use_column
declare
  job record;
begin
  for job in select j.id, j.failed + j.crashed + 1 as attempt from brigade.jobs j where j.id = any(picked) and j.state = 3 loop
    perform brigade.end_job(job.id, 5, null, null, 'done', job.attempt, null, null);
  end loop;
end $$;

-- Those of these queues that have ready jobs and are not paused.
create function brigade.ready_queues(asked text[]) returns setof text language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set jit = off
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  found_queue text;
  steps integer := 0;
begin
  -- From each queue to the next by the index, without looking at their jobs.
  select j.queue into found_queue from brigade.jobs j where j.state = 0 order by j.queue limit 1;
  while found_queue is not null loop
    steps := steps + 1;
    if steps > cardinality(asked) then
      -- There are more of them than were asked for.
      return query select a.queue from unnest(asked) a (queue)
         where exists (select from brigade.jobs j where j.state = 0 and j.queue = a.queue)
           and not exists (select from brigade.queues q where q.queue = a.queue and q.paused);
      return;
    end if;
    if not exists (select from brigade.queues q where q.queue = found_queue and q.paused) then
      return next found_queue;
    end if;
    select j.queue into found_queue from brigade.jobs j
     where j.state = 0 and j.queue > found_queue collate "C" order by j.queue limit 1;
  end loop;
end $$;
