-- Handing out jobs. A hand-out looks at ranges of the index of ready jobs, in the order given: all of
-- a queue from its head (`priority` is null), or those of a priority behind a place. See `floors.rs`.
--
-- The settings of these functions keep their plans at the indexes: a plan that was made while a table
-- was small is used for long after it has grown.

create type brigade.leased as (
  range integer, id bigint, token bigint, priority integer, payload text, task text, options text,
  failed integer, crashed integer, lost integer, unserved integer, unserved_at timestamptz,
  began_at timestamptz
);

-- Up to `most` jobs; `lease_ms` is null for jobs that are taken: they are done at once. `took` has
-- for each range how long it was looked at, in microseconds; null if it was not.
create function brigade.lease(queues text[], priorities integer[], floors bigint[], most integer,
    lease_ms bigint, holder bigint, out jobs brigade.leased[], out took bigint[]) language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  room integer;
  picked bigint[];
  found brigade.leased[];
  began timestamptz;
  settings brigade.queues;
  has_waited boolean := false;
begin
  jobs := '{}';
  took := array_fill(null::bigint, array[cardinality(queues)]);
  for place in 1 .. cardinality(queues) loop
    room := most - cardinality(jobs);
    exit when room <= 0;
    select * into settings from brigade.queues q where q.queue = queues[place];
    continue when settings.paused;
    began := clock_timestamp();
    if settings.limits is null then
      picked := brigade.pick(queues[place], priorities[place], floors[place], room, wall);
    else
      -- It waits for no other transaction while it has what another one may wait for.
      picked := brigade.start_within(queues[place], settings.limits::jsonb, priorities[place], floors[place],
          room, wall, not has_waited);
      has_waited := true;
      continue when picked is null;
    end if;
    took[place] := extract(epoch from clock_timestamp() - began) * 1000000;
    continue when cardinality(picked) = 0;
    if lease_ms is null then
      found := brigade.take_picked(place, picked, wall);
    else
      found := brigade.lease_picked(place, picked, lease_ms, holder, wall);
    end if;
    jobs := jobs || found;
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

create function brigade.lease_picked(range integer, picked bigint[], lease_ms bigint, holder bigint, wall timestamptz)
    returns brigade.leased[] language plpgsql as $$
#variable_conflict use_column
declare
  ends timestamptz := brigade.now() + brigade.ms(lease_ms);
  answer brigade.leased[];
begin
  with before as (
    select j.id, j.at, g.place from unnest(picked) with ordinality as g (id, place)
      join brigade.jobs j on j.id = g.id
  ), leased as (
    update brigade.jobs j set state = 3, token = j.token + 1, attempts = j.attempts + 1, at = ends,
        leased_at = wall, holder = lease_picked.holder, cancel = null
      from before b where j.id = b.id
    returning j.*, b.at as since, b.place
  ), full_rows as (
    select l.*, p.payload, p.task, p.options, p.lost, p.unserved, p.unserved_at,
        coalesce(p.began_at, p.pushed_at) as began_at
      from leased l join brigade.payloads p on p.job = l.id
  ), counted as (
    insert into brigade.statistics_new (minute, queue, task, wait)
    select date_trunc('minute', wall), queue, coalesce(task, ''),
        brigade.histogram(array_agg((extract(epoch from greatest(wall - since, '0')) * 1000)::bigint))
      from full_rows group by queue, task
  ), recorded as (
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt)
    select wall, id, queue, task, 'leased', 3, attempts from full_rows
     where brigade.is_recording(wall) order by place
  )
  select array_agg(row(range, id, token, priority, payload, task, options, failed, crashed, lost,
      unserved, unserved_at, began_at)::brigade.leased order by place) into answer from full_rows;
  return coalesce(answer, '{}');
end $$;

-- Handed out and done at once.
create function brigade.take_picked(range integer, picked bigint[], wall timestamptz)
    returns brigade.leased[] language plpgsql as $$
#variable_conflict use_column
declare
  answer brigade.leased[];
  taken brigade.leased;
begin
  answer := brigade.lease_picked(range, picked, 60000, null, wall);
  foreach taken in array answer loop
    perform brigade.end_job(taken.id, 5, null, null, 'done', taken.failed + taken.crashed + 1, null, null);
  end loop;
  return answer;
end $$;

-- Those of these queues that have ready jobs and are not paused.
create function brigade.ready_queues(asked text[]) returns setof text language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set jit = off as $$
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
