-- Flows: jobs that wait for others, their parents.
--
-- A job that waits is blocked, and `links` counts how many of its parents are left. What settles a
-- parent for good counts it there in the same transaction and keeps what it leaves in
-- `parent_results`: its result, if that is handed on, or why it is missed, if it ended otherwise than
-- done. With the last one the job goes on, or is a dead letter if one was missed (`finally` goes on in
-- any case). That is an end like any other, and reaches the next job in turn: a flow may be long. A
-- transaction follows it for some steps; the next end is noted in `flow_ends`, and a chore goes on.
-- So does a retry, which is noted in `flow_retries`. A crash between two steps loses nothing, and each
-- end is counted once.
--
-- Ids grow from parents to those that wait for them, so rows are locked in the order of ids.

-- The end of a job, whose rows are gone by now, reaches the one that waits for it.
create function brigade.pass_end_on(job bigint, state integer, reason text, result text) returns void language plpgsql as $$
#variable_conflict use_column
declare
  l brigade.links;
  missed text;
  depth integer;
begin
  select * into l from brigade.links e where e.job = pass_end_on.job;
  if not found then return; end if;
  -- What was gathered for a dead letter stays, for when it or its parents are retried.
  if l.parents > 0 and state is distinct from 6 then
    delete from brigade.parent_results r where r.job = l.job;
  end if;
  if not exists (select from brigade.ended e where e.id = l.job) then
    delete from brigade.links e where e.job = l.job;
  end if;
  if l.dependent is null then return; end if;
  missed := case
    when state = 5 then null
    -- Not run for want of others: it is they that are missed.
    when state = 6 and l.missed > 0 and l.kind <> 'finally' then substr(reason, length('not run: ') + 1)
    else 'job ' || l.job || ' before it '
      || case state when 6 then 'is dead' when 7 then 'was cancelled' else 'was removed' end
      || coalesce(': ' || reason, '') end;
  -- How deep this is in the ends that other ends brought about.
  depth := coalesce(nullif(current_setting('brigade.flow_depth', true), '')::integer, 0);
  if depth < {flow_depth_max} then
    perform set_config('brigade.flow_depth', (depth + 1)::text, true);
    perform brigade.count_end(l.job, l.dependent, l.place, result, missed);
    perform set_config('brigade.flow_depth', depth::text, true);
  else
    insert into brigade.flow_ends (job, dependent, place, result, missed)
    values (l.job, l.dependent, l.place, result, missed);
  end if;
end $$;

-- Counts a parent that ended with the job that waits for it, which goes on if it was the last. The
-- job may have been cancelled or removed.
create function brigade.count_end(parent bigint, dependent bigint, place integer, result text, missed text)
    returns void language plpgsql as $$
#variable_conflict use_column
declare
  l brigade.links;
begin
  delete from brigade.flow_retries n where n.job = parent;
  if found then
    perform brigade.take_back_behind(parent, dependent, place, false);
  end if;
  perform from brigade.jobs j where j.id = dependent and j.state = 2 for update;
  if not found then return; end if;
  update brigade.links d set parents_left = d.parents_left - 1, missed = d.missed + (count_end.missed is not null)::int
   where d.job = count_end.dependent and d.parents_left > 0 returning * into l;
  if not found then return; end if;
  if l.kind <> 'finally' and (missed is not null or brigade.hands_on(l.kind)) then
    insert into brigade.parent_results as r (job, place, result, missed)
    values (l.job, count_end.place, case when count_end.missed is null then count_end.result end,
        left(count_end.missed, {missed_bytes_max}))
    on conflict on constraint parent_results_pkey do update set result = excluded.result, missed = excluded.missed;
  end if;
  if l.parents_left = 0 then
    perform brigade.go_on(l.job);
  end if;
end $$;

-- Whether a job of this kind is given the results of its parents.
create function brigade.hands_on(kind text) returns boolean language sql immutable as $$
  select kind in ('front', 'collect', 'barrier')
$$;

-- A job goes on whose parents are all settled: it is set aside, ends with their results, or runs.
create function brigade.go_on(job bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  l brigade.links;
  given text;
  why text;
  due_at timestamptz;
  of_queue text;
begin
  select * into l from brigade.links g where g.job = go_on.job;
  if l.missed > 0 and l.kind <> 'finally' then
    perform brigade.end_job(l.job, 6, 'not run: ' || brigade.missed_parents(l.job, l.missed), null, 'dead', 0, null, null);
    return;
  end if;
  if brigade.hands_on(l.kind) then
    select * into given, why from brigade.assemble(l.job, l.kind);
    if why is not null then
      perform brigade.end_job(l.job, 6, why, null, 'dead', 0, null, null);
      return;
    end if;
    delete from brigade.parent_results r where r.job = l.job;
    if l.kind = 'barrier' then
      perform brigade.end_job(l.job, 5, null, given, 'done', 0, null, null);
      return;
    end if;
  end if;
  -- Its times begin now: the one that it has to begin in, and its delay.
  update brigade.jobs j set payload = coalesce(given, j.payload), began_at = wall,
      begins_by = wall + brigade.ms(l.within_ms) where j.id = l.job;
  due_at := coalesce(l.due, wall + brigade.ms(l.delay_ms));
  if due_at > wall then
    update brigade.jobs j set state = 1, at = due_at where j.id = l.job returning j.queue into of_queue;
    perform brigade.announce(array[of_queue]);
  else
    perform brigade.make_ready(l.job, wall);
  end if;
end $$;

-- Which parents of a job were missed, the first of them by name.
create function brigade.missed_parents(job bigint, count integer) returns text language sql as $$
  select string_agg(missed, '; ' order by place)
      || case when count > {missed_named_max} then '; and ' || count - {missed_named_max} || ' more' else '' end
    from (select r.place, r.missed from brigade.parent_results r
           where r.job = missed_parents.job and r.missed is not null order by r.place limit {missed_named_max}) named
$$;

-- The payload of a job with what its parents left, or the result of a barrier; otherwise why there can
-- be none.
create function brigade.assemble(job bigint, kind text, out given text, out why text) language plpgsql as $$
#variable_conflict use_column
declare
  payload text;
  bytes bigint;
begin
  select j.payload into payload from brigade.jobs j where j.id = assemble.job;
  select coalesce(sum(coalesce(octet_length(r.result), 4) + 1), 0) + octet_length(payload) + 2 into bytes
    from brigade.parent_results r where r.job = assemble.job;
  if bytes > {payload_bytes_max} then
    why := 'the results of those it waited for have ' || bytes || ' bytes and {payload_bytes_max} are allowed';
    return;
  end if;
  select coalesce(string_agg(coalesce(r.result, 'null'), ',' order by r.place), '') into given
    from brigade.parent_results r where r.job = assemble.job;
  if kind = 'barrier' then
    given := '[' || given || ']';
    return;
  end if;
  payload := btrim(payload, e' \t\r\n');
  if left(payload, 1) <> '[' then
    given := null;
    why := 'its payload is no array, so no result can be put in front';
    return;
  end if;
  payload := ltrim(substr(payload, 2), e' \t\r\n');
  given := case kind when 'front' then '[' || given else '[[' || given || ']' end
    || case when left(payload, 1) = ']' then '' else ',' end || payload;
end $$;

-- -- retries

-- Takes the end of a dead letter back, with those behind it that were not run because of it: all of
-- them wait again. Before it is itself put back. Raises BR001 if another job has the unique key of one.
create function brigade.take_back(job bigint) returns void language plpgsql as $$
#variable_conflict use_column
begin
  delete from brigade.flow_ends n where n.job = take_back.job;
  -- Otherwise it was not counted yet.
  if not found then
    perform brigade.take_back_from(job, true);
  end if;
end $$;

create function brigade.take_back_from(first bigint, refuses boolean) returns void language plpgsql as $$
#variable_conflict use_column
declare
  l brigade.links;
  next_job bigint := first;
  steps integer := 0;
begin
  while next_job is not null loop
    select * into l from brigade.links n where n.job = next_job;
    exit when l.dependent is null;
    if steps = {flow_steps_max} then
      insert into brigade.flow_retries (job) values (next_job) on conflict do nothing;
      exit;
    end if;
    steps := steps + 1;
    next_job := brigade.take_back_behind(l.job, l.dependent, l.place, refuses);
  end loop;
end $$;

-- Makes the dependent of a job wait for it again. Gives the next one whose end is to be taken back:
-- the dependent, if it had ended for want of this job. `refuses`: what becomes of it if another job has
-- its unique key; otherwise it goes on without, as the retry was accepted before.
create function brigade.take_back_behind(parent bigint, dependent bigint, place integer, refuses boolean)
    returns bigint language plpgsql as $$
#variable_conflict use_column
declare
  goes_on boolean := false;
begin
  perform from brigade.jobs j where j.id = take_back_behind.dependent and j.state = 2 for update;
  if found then
    update brigade.links l set parents_left = parents_left + 1, missed = missed - 1
     where l.job = take_back_behind.dependent and l.missed > 0 and l.parents_left > 0;
  else
    perform from brigade.links l join brigade.ended e on e.id = l.job
     where l.job = take_back_behind.dependent and e.state = 6 and l.missed > 0 and l.kind <> 'finally' for update of e;
    if not found then return null; end if;
    perform brigade.wait_again(take_back_behind.dependent, refuses);
    update brigade.links l set parents_left = parents_left + 1, missed = missed - 1 where l.job = take_back_behind.dependent;
    -- An end that was not counted yet is not behind others.
    delete from brigade.flow_ends n where n.job = take_back_behind.dependent;
    goes_on := not found;
  end if;
  delete from brigade.parent_results r where r.job = take_back_behind.dependent and r.place = take_back_behind.place;
  return case when goes_on then dependent end;
end $$;

-- Makes a live job, blocked, of one that was not run.
create function brigade.wait_again(job bigint, refuses boolean) returns void language plpgsql as $$
#variable_conflict use_column
declare
  e brigade.ended;
begin
  select * into e from brigade.ended d where d.id = wait_again.job;
  e.unique_key := brigade.hold_again(e, e.queue, refuses);
  e.begins_by := null;
  perform brigade.put_back(e);
  perform brigade.note('retried', e.id, e.queue, e.task, 2, 0, null, null, null);
end $$;

-- Puts a dead letter back: to be run, or, if it never got what its parents left, to be given that.
create function brigade.come_back(job bigint) returns void language plpgsql as $$
#variable_conflict use_column
begin
  if exists (select from brigade.parent_results r where r.job = come_back.job) then
    perform brigade.go_on(job);
  else
    perform brigade.make_ready(job, brigade.wall());
  end if;
end $$;

-- -- chores

-- Takes back and counts some of the ends that are noted; gives how many. A retry goes first: it
-- overtakes the end that it takes back.
create function brigade.continue_flows(most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  noted bigint;
  e brigade.flow_ends;
begin
  for count in 0 .. most - 1 loop
    delete from brigade.flow_retries n where n.job =
      (select f.job from brigade.flow_retries f order by f.job limit 1 for update skip locked) returning n.job into noted;
    if found then
      perform brigade.take_back_from(noted, false);
      continue;
    end if;
    delete from brigade.flow_ends n where n.job =
      (select f.job from brigade.flow_ends f order by f.job limit 1 for update skip locked) returning n.* into e;
    if not found then return count; end if;
    perform brigade.count_end(e.job, e.dependent, e.place, e.result, e.missed);
  end loop;
  return most;
end $$;

-- Notes that what a cancelled job waits for is to be cancelled too.
create function brigade.cancel_parents(job bigint, reason text) returns void language sql as $$
  insert into brigade.cancels as c (job, after, reason) values (job, 0, reason)
  on conflict (job) do update set after = 0, reason = excluded.reason
$$;

-- Cancels some of the jobs that cancelled ones wait for, however far back; gives at how many it looked.
create function brigade.cancel_flows(most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  c brigade.cancels;
  parents bigint[];
  parent bigint;
  room integer := most;
begin
  while room > 0 loop
    select * into c from brigade.cancels n order by n.job desc limit 1 for update skip locked;
    exit when not found;
    parents := array(select l.job from brigade.links l where l.dependent = c.job and l.job > c.after order by l.job limit room);
    if cardinality(parents) = room then
      update brigade.cancels n set after = parents[room] where n.job = c.job;
    else
      delete from brigade.cancels n where n.job = c.job;
    end if;
    perform brigade.lock_keys(parents);
    foreach parent in array parents loop
      perform brigade.cancel_job(parent, c.reason);
    end loop;
    room := room - greatest(cardinality(parents), 1);
  end loop;
  return most - room;
end $$;
