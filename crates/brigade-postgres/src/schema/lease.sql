-- Handing out jobs. A hand-out looks at ranges of the index of ready jobs, in the order given: all of
-- a queue from its head (`priority` is null), or those of a priority behind a place. See `floors.rs`.
--
-- The settings of these functions keep their plans at the indexes: a plan that was made while a table
-- was small is used for long after it has grown.

-- Locked jobs that are to be handed out, in order: for how long each waited, in milliseconds, and the
-- bytes of their payloads.
create type brigade.picked_jobs as (ids bigint[], tasks text[], waited bigint[], bytes bigint);

-- Up to `most` jobs; `lease_ms` is null for jobs that are taken: they are done at once. For each range
-- that was looked at, a row without a job says how long that took, in microseconds.
--
-- A lease does not wait for the disk. If the server crashes before it is there, the job is ready
-- again as if it had never been handed out; the token of its next lease is another all the same.
create function brigade.lease(queues text[], priorities integer[], floors bigint[], most integer,
    lease_ms bigint, holder bigint) returns table (range integer, took bigint, place bigint, id bigint, token bigint,
    priority integer, payload text, task text, options text, failed integer, crashed integer,
    lost integer, unserved integer, unserved_at timestamptz, began_at timestamptz) language plpgsql
    {by_index} set enable_bitmapscan = off set enable_sort = off
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  moment timestamptz := brigade.now();
  ends timestamptz := moment + brigade.ms(coalesce(lease_ms, 60000));
  token_min bigint := extract(epoch from moment) * 1000;
  room integer := most;
  picked brigade.picked_jobs;
  began timestamptz;
  limits text;
  is_paused boolean;
  is_recorded boolean;
  whole_queue text;
  has_waited boolean := false;
begin
  if lease_ms is not null then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  for of_range in 1 .. cardinality(queues) loop
    exit when room <= 0;
    select q.paused, q.limits, {is_recording} into is_paused, limits, is_recorded
      from (select) one left join brigade.queues q on q.queue = queues[of_range];
    continue when is_paused;
    -- Its partitions were looked at as a whole, whatever the range.
    continue when queues[of_range] = whole_queue;
    began := clock_timestamp();
    if limits is null then
      picked := brigade.pick(queues[of_range], priorities[of_range], floors[of_range], room, wall);
    else
      -- It waits for no other transaction while it has what another one may wait for.
      picked := brigade.picked(brigade.start_within(queues[of_range], limits::jsonb, priorities[of_range],
          floors[of_range], room, not has_waited));
      has_waited := true;
      if brigade.is_by_partition(limits::jsonb) then
        whole_queue := queues[of_range];
      end if;
      continue when picked.ids is null;
    end if;
    range := of_range;
    took := extract(epoch from clock_timestamp() - began) * 1000000;
    return next;
    continue when cardinality(picked.ids) = 0;
    room := room - cardinality(picked.ids);
    if picked.bytes > {hand_out_bytes_max} then
      picked := brigade.first_bytes(picked.ids);
      room := 0;
    end if;
    -- No other lease of a job has its token, not even one that a crash of the server undid: it has the
    -- time in it.
    return query update brigade.jobs j set state = 3, token = greatest(j.token + 1, token_min),
        attempts = j.attempts + 1, at = ends, leased_at = wall, holder = lease.holder, cancel = null
      from unnest(picked.ids) with ordinality as g (id, place) where j.id = g.id
    returning of_range, null::bigint, g.place, j.id, j.token, j.priority, j.payload, j.task, j.options, j.failed,
        j.crashed, j.lost, j.unserved, j.unserved_at, coalesce(j.began_at, j.pushed_at);
    insert into brigade.statistics_new (minute, queue, task, wait_bucket, waited, wait_ms)
    select date_trunc('minute', wall), queues[of_range], coalesce(task, ''), brigade.bucket(waited), count(*), sum(waited)
      from unnest(picked.tasks, picked.waited) as w (task, waited) group by task, brigade.bucket(waited);
    if is_recorded then
      insert into brigade.events_new (at, job, queue, task, kind, state, attempt)
      select wall, j.id, j.queue, j.task, 'leased', 3, j.attempts
        from unnest(picked.ids) with ordinality as g (id, place) join brigade.jobs j on j.id = g.id order by g.place;
    end if;
    if lease_ms is null then
      perform brigade.end_taken(picked.ids);
    end if;
  end loop;
end $$;

-- Locks the first ready jobs of a range that may be handed out.
create function brigade.pick(queue text, priority integer, floor bigint, most integer, wall timestamptz)
    returns brigade.picked_jobs language plpgsql as $$
#variable_conflict use_column
declare
  picked brigade.picked_jobs;
  has_keys boolean;
begin
  if priority is null then
    select array_agg(id), array_agg(task), array_agg((extract(epoch from greatest(wall - at, '0')) * 1000)::bigint),
        sum(octet_length(payload)), bool_or(key is not null)
      into picked.ids, picked.tasks, picked.waited, picked.bytes, has_keys from (
      select j.id, j.task, j.at, j.payload, j.key from brigade.jobs j where j.state = 0 and j.queue = pick.queue
         and (j.begins_by is null or j.begins_by >= wall)
       order by j.priority desc, j.id limit most for update skip locked) ready;
  else
    select array_agg(id), array_agg(task), array_agg((extract(epoch from greatest(wall - at, '0')) * 1000)::bigint),
        sum(octet_length(payload)), bool_or(key is not null)
      into picked.ids, picked.tasks, picked.waited, picked.bytes, has_keys from (
      select j.id, j.task, j.at, j.payload, j.key from brigade.jobs j where j.state = 0 and j.queue = pick.queue
         and j.priority = pick.priority and j.id > floor
         and (j.begins_by is null or j.begins_by >= wall)
       order by j.id limit most for update skip locked) ready;
  end if;
  if has_keys then
    return brigade.picked(brigade.first_of_their_keys(picked.ids));
  end if;
  picked.ids := coalesce(picked.ids, '{}');
  return picked;
end $$;

-- The same of jobs that were picked in another way; null for null.
create function brigade.picked(ids bigint[]) returns brigade.picked_jobs language plpgsql as $$
#variable_conflict use_column
declare
  picked brigade.picked_jobs;
  wall timestamptz := brigade.wall();
begin
  picked.ids := ids;
  select array_agg(j.task order by g.place),
      array_agg((extract(epoch from greatest(wall - j.at, '0')) * 1000)::bigint order by g.place), sum(octet_length(j.payload))
    into picked.tasks, picked.waited, picked.bytes
    from unnest(ids) with ordinality as g (id, place) join brigade.jobs j on j.id = g.id;
  return picked;
end $$;

-- As many of these jobs as one answer may have by the bytes of their payloads, at least one.
create function brigade.first_bytes(ids bigint[]) returns brigade.picked_jobs language sql as $$
  select brigade.picked(array(
    select s.id from (
      select g.id, g.place, sum(octet_length(j.payload)) over (order by g.place) as bytes
        from unnest(ids) with ordinality as g (id, place) join brigade.jobs j on j.id = g.id) s
     where s.bytes <= {hand_out_bytes_max} or s.place = 1 order by s.place))
$$;

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
