-- Ending leases. A settlement counts only with the token of the lease that holds the job, before that
-- lease ran out; otherwise it is stale and changes nothing.

-- Arrays of one length, an element for each settlement:
--   actions: done, retry (after `times`), back (after `times`), dead, cancelled, extend (by `times`)
--   kinds: how the attempt ended (a `JobEventKind`)
--   reasons, results: texts; records: JSON for the history from the kind on, or null
--   costs: JSON of the attempt's cost; runs: how long it ran
-- Times are milliseconds. The answers: `stale`, `accepted`, and for an extension of a job that is to
-- be cancelled `cancel ` with the reason.
create function brigade.settle(ids bigint[], tokens bigint[], actions text[], kinds text[], reasons text[],
    records text[], results text[], times bigint[], costs text[], runs bigint[]) returns text[]
    language plpgsql {by_index}
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  answers text[];
  others bigint[];
  settled integer[];
begin
  if 'done' = any(actions) then
    settled := brigade.remove_plain(ids, tokens, actions, costs, runs);
    if cardinality(settled) = cardinality(ids) then
      return array_fill('accepted'::text, array[cardinality(ids)]);
    end if;
  end if;
  answers := array_fill('stale'::text, array[cardinality(ids)]);
  for place in 1 .. coalesce(cardinality(settled), 0) loop
    answers[settled[place]] := 'accepted';
  end loop;
  others := array(select g.id from unnest(ids, answers) as g (id, answer) where answer = 'stale');
  perform brigade.lock_keys(others);
  for place in 1 .. cardinality(ids) loop
    continue when answers[place] <> 'stale';
    answers[place] := brigade.settle_one(ids[place], tokens[place], actions[place], kinds[place],
        reasons[place], records[place], results[place], times[place], costs[place], runs[place]);
  end loop;
  return answers;
end $$;

-- Most jobs that are done leave nothing behind and let no other go on. Gives the places of those.
create function brigade.remove_plain(ids bigint[], tokens bigint[], actions text[], costs text[], runs bigint[])
    returns integer[] language plpgsql as $$
#variable_conflict use_column
declare
  moment timestamptz := brigade.now();
  wall timestamptz := brigade.wall();
  places integer[];
  limited text[];
begin
  with gone as (
    -- By their ids: `+ 0` keeps the plan from going through all that is leased.
    delete from brigade.jobs j
     using unnest(ids, tokens, actions, costs, runs) with ordinality as g (id, token, action, cost, run, n)
     where j.id = g.id and j.token = g.token and g.action = 'done' and j.state + 0 = 3 and j.is_plain and j.at >= moment
    returning j.id, j.queue, j.task, j.attempts, g.n::integer, g.cost,
        coalesce(g.run, (extract(epoch from greatest(wall - j.leased_at, '0')) * 1000)::bigint) as run
  ), counted as (
    insert into brigade.statistics_new (minute, queue, task, done, run_bucket, ran, run_ms)
    select date_trunc('minute', wall), queue, coalesce(task, ''), count(*), brigade.bucket(run), count(*), sum(run)
      from gone group by queue, task, brigade.bucket(run)
  ), recorded as (
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt, cost)
    select wall, id, queue, task, 'done', 5, attempts, cost from gone
     where {is_recording} order by n
  )
  select array_agg(n), (
      select array_agg(q.queue) from brigade.queues q where q.limits is not null and q.queue in (select queue from gone))
    into places, limited from gone;
  if limited is not null then
    perform brigade.announce_room(limited);
  end if;
  return coalesce(places, '{}');
end $$;

create function brigade.settle_one(id bigint, token bigint, action text, kind text, reason text,
    record text, result text, millis bigint, cost text, run bigint) returns text language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  j record;
begin
  -- By its id: `+ 0` keeps the plan from going through all that is leased.
  select h.id, h.queue, h.task, h.attempts, h.leased_at, h.begins_by, h.cancel, h.keep_ms into j
    from brigade.jobs h where h.id = settle_one.id and h.token = settle_one.token
     and h.state + 0 = 3 and h.at >= brigade.now() for update;
  if not found then return 'stale'; end if;
  if action = 'extend' then
    update brigade.jobs h set at = brigade.now() + brigade.ms(millis) where h.id = j.id;
    return coalesce('cancel ' || j.cancel, 'accepted');
  end if;
  if run is null and kind in ('done', 'failed', 'crashed') then
    run := extract(epoch from greatest(wall - j.leased_at, '0')) * 1000;
  end if;
  if action = 'done' then
    if j.keep_ms is not null then
      perform brigade.add_record(j.id, j.attempts, record);
    end if;
    perform brigade.end_job(j.id, 5, null, result, kind, j.attempts, cost, run);
    return 'accepted';
  end if;
  if record is not null then
    perform brigade.add_record(j.id, j.attempts, record);
  end if;
  perform brigade.count_attempt(j.id, kind, wall);
  if action = 'cancelled' then
    perform brigade.end_job(j.id, 7, reason, null, kind, j.attempts, cost, run);
  elsif j.cancel is not null then
    -- A cancel that was accepted holds, however the attempt ended but well.
    perform brigade.end_job(j.id, 7, j.cancel, null, kind, j.attempts, cost, run);
  elsif action = 'dead' then
    perform brigade.end_job(j.id, 6, reason, null, kind, j.attempts, cost, run);
  elsif action = 'retry' and (j.begins_by <= wall or wall + brigade.ms(millis) > j.begins_by) then
    perform brigade.end_job(j.id, 6, reason || {next_too_late}, null, kind, j.attempts, cost, run);
  else
    perform brigade.back_to_queue(j.id, case action when 'retry' then 4 else 1 end, millis);
    perform brigade.note(kind, j.id, j.queue, j.task, n.state, j.attempts, reason, cost, run)
       from brigade.jobs n where n.id = j.id;
  end if;
  return 'accepted';
end $$;

create function brigade.count_attempt(id bigint, kind text, wall timestamptz) returns void language plpgsql as $$
#variable_conflict use_column
begin
  if kind in ('failed', 'crashed') then
    update brigade.jobs j set failed = failed + (kind = 'failed')::int, crashed = crashed + (kind = 'crashed')::int,
        unserved = 0, unserved_at = null
     where j.id = count_attempt.id;
  elsif kind = 'unserved' then
    update brigade.jobs j set unserved = unserved + 1, unserved_at = coalesce(unserved_at, wall)
     where j.id = count_attempt.id;
  elsif kind = 'interrupted' then
    update brigade.jobs j set interrupted = interrupted + 1 where j.id = count_attempt.id;
  end if;
end $$;

-- Ready at once, or later in the given state. Its id has not changed, so neither has its place.
create function brigade.back_to_queue(id bigint, later integer, after_ms bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  j record;
begin
  if after_ms > 0 then
    update brigade.jobs u set state = later, at = wall + brigade.ms(after_ms), holder = null, leased_at = null, cancel = null
     where u.id = back_to_queue.id returning u.queue, u.key into j;
    -- An earlier one may have come back from the dead letters while this one was leased.
    perform brigade.release_key(j.queue, j.key);
    perform brigade.announce(array[j.queue]);
  else
    perform brigade.make_ready(id, wall);
    select r.queue, r.key into j from brigade.jobs r where r.id = back_to_queue.id;
    perform brigade.release_key(j.queue, j.key);
  end if;
end $$;
