-- Work whose time has come: leases that ran out, due and late jobs, old rows. Each consuming process
-- calls this at a pace of its own (`chores.rs`); several may at once, and each job is seen to once.
-- Nothing depends on a chore having come to a job: a lease that ran out is not accepted, and a job
-- whose time to begin is over is not handed out.

-- At most `most` rows of each kind; `is_more`: there may be more of some kind. `due_in`: in how many
-- milliseconds something else falls due, null if nothing does; `has_ticks`: schedules are due.
--
-- While a foreign transaction holds an old snapshot, the entries of jobs that were seen to stay in the
-- indexes. So a caller whose last look was complete looks only behind it: at leases that end after
-- `leases_since` and at times after `times_since`. Null: at all. `lease_time` and `wall_time` are the
-- moments of this look. What is committed late, or was pushed by a clock that is behind, is found by
-- the next look at all.
create function brigade.chores(most integer, leases_since timestamptz, times_since timestamptz, out is_more boolean,
    out due_in bigint, out has_ticks boolean, out lease_time timestamptz, out wall_time timestamptz) language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set enable_sort = off set jit = off
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  moment timestamptz := brigade.now();
  wall timestamptz := brigade.wall();
begin
  lease_time := moment;
  wall_time := wall;
  leases_since := coalesce(leases_since, '-infinity');
  times_since := coalesce(times_since, '-infinity');
  is_more := false;
  has_ticks := exists (select from brigade.schedules where next_at <= wall);
  if exists (select from brigade.jobs where state = 3 and at >= leases_since and at < moment) then
    is_more := brigade.expire_leases(leases_since, moment, most) >= most;
  end if;
  if exists (select from brigade.jobs where begins_by >= times_since and begins_by < wall and begins_by is not null and state <> 3) then
    is_more := brigade.end_late(times_since, wall, most) >= most or is_more;
  end if;
  if exists (select from brigade.jobs where at >= times_since and at <= wall and state in (1, 4)) then
    is_more := brigade.promote_due(times_since, wall, most) >= most or is_more;
  end if;
  if exists (select from brigade.key_checks) then
    is_more := brigade.check_keys(most) >= most or is_more;
  end if;
  if exists (select from brigade.cancels) then
    is_more := brigade.cancel_flows(most) >= most or is_more;
  end if;
  if exists (select from brigade.flow_ends) or exists (select from brigade.flow_retries) then
    is_more := brigade.continue_flows({flow_ends_max}) >= {flow_ends_max} or is_more;
  end if;
  if exists (select from brigade.ended where remove_at <= wall)
    or exists (select from brigade.unique_keys where until <= wall) then
    is_more := brigade.remove_old(wall, most) >= most or is_more;
  end if;
  select ceil(extract(epoch from least(
      nullif((select min(at) from brigade.jobs where state in (1, 4) and at >= times_since), 'infinity') - wall,
      nullif((select min(next_at) from brigade.schedules), 'infinity') - wall,
      -- A waiting consumer looks again after 2 s in any case, so later ends need not be known. Entries of
      -- leases that would end later are many.
      (select min(at) from brigade.jobs where state = 3 and at >= leases_since and at < moment + interval '2 seconds') - moment)) * 1000)::bigint into due_in;
  due_in := least(due_in, brigade.next_start());
  due_in := case when due_in is not null then greatest(due_in, 0) end;
end $$;

-- What is known by its id is found by that: `+ 0` keeps the plan from going through an index that has the
-- entries of many others.
create function brigade.expire_leases(since timestamptz, moment timestamptz, most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  late bigint[] := brigade.try_lock_keys(array(
    select id from brigade.jobs where state = 3 and at >= since and at < moment order by at limit most));
  late_id bigint;
begin
  foreach late_id in array late loop
    perform from brigade.jobs where id = late_id and state + 0 = 3 and at < moment for update skip locked;
    if found then
      perform brigade.lose(late_id, 'its lease ran out');
    end if;
  end loop;
  return cardinality(late);
end $$;

-- Puts a job back whose holder said no word.
create function brigade.lose(id bigint, reason text) returns void language plpgsql as $$
#variable_conflict use_column
declare
  j record;
begin
  update brigade.jobs l set lost = lost + 1, interrupted = interrupted + 1 where l.id = lose.id
  returning l.queue, l.task, l.attempts, l.cancel into j;
  perform brigade.add_record(id, j.attempts, brigade.plain_record('interrupted', reason));
  if j.cancel is not null then
    perform brigade.end_job(id, 7, j.cancel, null, 'interrupted', j.attempts, null, null);
    return;
  end if;
  perform brigade.back_to_queue(id, 1, 0);
  perform brigade.note('interrupted', id, j.queue, j.task, b.state, j.attempts, reason, null, null)
     from brigade.jobs b where b.id = lose.id;
end $$;

-- Sets jobs aside that were to begin by now.
create function brigade.end_late(since timestamptz, wall timestamptz, most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  late bigint[] := brigade.try_lock_keys(array(select id from brigade.jobs
    where begins_by >= since and begins_by < wall and begins_by is not null and state <> 3 order by begins_by limit most));
  j record;
  late_id bigint;
begin
  foreach late_id in array late loop
    select failed, crashed into j from brigade.jobs where id = late_id and state + 0 <> 3 and begins_by < wall for update skip locked;
    if found then
      perform brigade.end_job(late_id, 6, brigade.too_late(j.failed + j.crashed), null, 'dead', 0, null, null);
    end if;
  end loop;
  return cardinality(late);
end $$;

-- Each keeps the time at which it fell due: since then it waits.
create function brigade.promote_due(since timestamptz, wall timestamptz, most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  due bigint[] := brigade.try_lock_keys(array(
    select id from brigade.jobs where state in (1, 4) and at >= since and at <= wall order by at limit most));
  j record;
  queues text[];
begin
  with ready as (
    update brigade.jobs set state = 0
     where id = any(array(select id from brigade.jobs where id = any(due) and key is null
        and state + 0 in (1, 4) and at <= wall for update skip locked)) returning queue)
  select array_agg(distinct queue) into queues from ready;
  for j in select id, queue, key from brigade.jobs where id = any(due) and key is not null loop
    update brigade.jobs set state = case when brigade.is_behind(j.queue, j.key, j.id) then 2 else 0 end
     where id = j.id and state + 0 in (1, 4) and at <= wall;
    queues := queues || j.queue;
  end loop;
  perform brigade.announce_back(named) from (select distinct unnest(queues) as named) names;
  return cardinality(due);
end $$;

-- Sees whether jobs that were pushed as blocked by their keys still are. A key that another
-- transaction has locked is for another round.
create function brigade.check_keys(most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  noted record;
  checked integer := 0;
begin
  for noted in select queue, key, array_agg(id) as ids from (
      select c.id, c.queue, c.key from brigade.key_checks c order by c.id limit most for update skip locked) checks
     group by queue, key loop
    continue when not pg_try_advisory_xact_lock(brigade.lock_of_key(noted.queue, noted.key));
    delete from brigade.key_checks c where c.id = any(noted.ids);
    perform brigade.release_key(noted.queue, noted.key);
    checked := checked + cardinality(noted.ids);
  end loop;
  return checked;
end $$;

create function brigade.remove_old(wall timestamptz, most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  removed integer;
  keys integer;
begin
  with gone as (
    delete from brigade.ended where id in
      (select id from brigade.ended where remove_at <= wall order by remove_at limit most for update skip locked)
    returning id, is_plain
  ), links as (
    delete from brigade.links l using gone g where not g.is_plain and l.job = g.id
  ), results as (
    delete from brigade.parent_results r using gone g where not g.is_plain and r.job = g.id
  )
  select count(*) into removed from gone;
  -- A live job holds its key beyond the time anyhow: its row is not looked at again.
  with old as materialized (
    select u.queue, u.unique_key, exists (select from brigade.jobs j where j.id = u.job) as is_live
      from brigade.unique_keys u where u.until <= wall order by u.until limit most for update skip locked
  ), kept as (
    update brigade.unique_keys u set until = null from old o
     where o.is_live and u.queue = o.queue and u.unique_key = o.unique_key
  ), gone as (
    delete from brigade.unique_keys u using old o
     where not o.is_live and u.queue = o.queue and u.unique_key = o.unique_key
  )
  select count(*) into keys from old;
  return greatest(removed, keys);
end $$;
