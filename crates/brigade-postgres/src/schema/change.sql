-- Changes that people and programs make to single jobs and queues. A leased job is never changed: a
-- cancel leaves a request for its holder, and all else is refused.

-- `cancelled`, `asked` or `nothing`. `untouched`: only if it waits and none of its attempts failed or
-- crashed; otherwise the answer is `nothing`.
create function brigade.cancel(id bigint, reason text, untouched boolean) returns text language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  j record;
begin
  perform brigade.lock_keys(array[id]);
  select c.state, c.failed, c.crashed into j from brigade.jobs c where c.id = cancel.id for update;
  if not found or (untouched and (j.state = 3 or j.failed + j.crashed > 0)) then return 'nothing'; end if;
  return brigade.cancel_job(id, reason);
end $$;

-- The same for a job whose keys are locked, with all that it waits for.
create function brigade.cancel_job(id bigint, reason text) returns text language plpgsql as $$
#variable_conflict use_column
declare
  j record;
begin
  select c.state, c.queue into j from brigade.jobs c where c.id = cancel_job.id for update;
  if not found then return 'nothing'; end if;
  if j.state = 3 then
    update brigade.jobs c set cancel = reason where c.id = cancel_job.id;
    perform pg_notify('brigade', '!' || j.queue);
    return 'asked';
  end if;
  if exists (select from brigade.links l where l.job = cancel_job.id and l.parents_left > 0) then
    perform brigade.cancel_parents(id, reason);
  end if;
  perform brigade.end_job(id, 7, reason, null, 'cancelled', 0, null, null);
  return 'cancelled';
end $$;

-- Removes a job that is not leased, in this state or in any.
create function brigade.delete_job(id bigint, wanted integer) returns boolean language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  j record;
  e brigade.ended;
begin
  perform brigade.lock_keys(array[id]);
  select d.state into j from brigade.jobs d where d.id = delete_job.id for update;
  if found then
    if j.state = 3 or j.state <> wanted then return false; end if;
    perform brigade.end_job(id, null, null, null, 'deleted', 0, null, null);
    return true;
  end if;
  delete from brigade.ended d where d.id = delete_job.id and (wanted is null or d.state = wanted) returning * into e;
  if not found then return false; end if;
  delete from brigade.links l where l.job = delete_job.id;
  delete from brigade.parent_results r where r.job = delete_job.id;
  perform brigade.note('deleted', e.id, e.queue, e.task, e.state, 0, null, null, null);
  return true;
end $$;

-- Puts a dead letter back into its queue, with these changes, null for none. Raises BR001 if another
-- job has its unique key, BR002 if it is of a flow and the queue is another.
create function brigade.retry(id bigint, payload text, task text, queue text) returns boolean language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  e brigade.ended;
  target text;
begin
  select * into e from brigade.ended d where d.id = retry.id and d.state = 6
     and not exists (select from brigade.links l where l.job = d.id and l.missed > 0 and l.kind <> 'finally') for update;
  if not found then return false; end if;
  target := coalesce(queue, e.queue);
  if target <> e.queue and exists (select from brigade.links l where l.job = e.id and (l.dependent is not null or l.parents > 0)) then
    raise exception 'a job of a flow stays in its queue' using errcode = 'BR002';
  end if;
  e.unique_key := brigade.hold_again(e, target, true);
  perform brigade.take_back(id);
  e.begins_by := wall + (e.begins_by - coalesce(e.began_at, e.pushed_at));
  e.began_at := wall;
  e.payload := coalesce(payload, e.payload);
  e.task := coalesce(task, e.task);
  e.queue := target;
  perform brigade.put_back(e);
  perform brigade.come_back(e.id);
  perform brigade.note('retried', e.id, j.queue, j.task, j.state, 0, null, null, null)
     from brigade.jobs j where j.id = retry.id;
  return true;
end $$;

-- The unique key of a dead letter that comes back, held for it again; raises BR001 if another job has
-- it, or, if that is not to refuse it, gives none.
create function brigade.hold_again(e brigade.ended, queue text, refuses boolean) returns text language plpgsql as $$
#variable_conflict use_column
declare
  held bigint;
begin
  if e.unique_key is null then return null; end if;
  held := brigade.hold_unique(queue, e.unique_key, e.id, null, '{}');
  if held is null then return e.unique_key; end if;
  if refuses then
    raise exception 'job % has its unique key and is not settled', held using errcode = 'BR001';
  end if;
  return null;
end $$;

-- Makes a live job of one that ended, blocked until its callers let it go.
create function brigade.put_back(e brigade.ended) returns void language plpgsql as $$
#variable_conflict use_column
begin
  delete from brigade.ended d where d.id = e.id;
  insert into brigade.jobs (id, at, token, pushed_at, began_at, begins_by, priority, attempts, interrupted,
      state, is_plain, queue, task, payload, options, keep_ms, history, key, unique_key, partition)
  values (e.id, brigade.wall(), e.token, e.pushed_at, e.began_at, e.begins_by, e.priority, e.attempts, e.interrupted,
      2, e.is_plain, e.queue, e.task, e.payload, e.options, e.keep_ms, e.history, e.key, e.unique_key,
      coalesce(e.partition, (select coalesce(e.key, '') from brigade.queues q where q.queue = e.queue and q.parted)));
end $$;

-- Removes some of what waits in a queue, up to this job: how many there were, none if nothing is left,
-- and how many of them were removed; the others were leased or settled meanwhile. A job goes before its
-- parents, so that their removal does not reach it.
create function brigade.purge(queue text, last bigint, most integer, records boolean,
    out looked_at bigint, out removed bigint)
    language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off set jit = off
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  found_ids bigint[];
  plain bigint[];
  next_id bigint;
begin
  found_ids := array(select j.id from brigade.jobs j where j.queue = purge.queue and j.state in (1, 2, 4)
      and j.id <= last order by j.id desc limit most);
  if cardinality(found_ids) = 0 then
    found_ids := array(select j.id from brigade.jobs j where j.queue = purge.queue and j.state = 0
        and j.id <= last order by j.priority desc, j.id limit most);
  end if;
  looked_at := cardinality(found_ids);
  removed := 0;
  if not records then
    with gone as (
      delete from brigade.jobs j where j.id = any(found_ids) and j.state <> 3 and j.is_plain returning j.id
    )
    select array_agg(g.id), count(*) into plain, removed from gone g;
  end if;
  perform brigade.lock_keys(found_ids);
  foreach next_id in array found_ids loop
    continue when next_id = any(plain);
    perform from brigade.jobs j where j.id = next_id and j.state <> 3 for update;
    continue when not found;
    perform brigade.end_job(next_id, null, null, null, case when records then 'deleted' end, 0, null, null);
    removed := removed + 1;
  end loop;
end $$;

create function brigade.set_paused(queue text, paused boolean) returns void language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
begin
  insert into brigade.queues as q (queue, paused) values (set_paused.queue, set_paused.paused)
  on conflict on constraint queues_pkey do update set paused = excluded.paused;
  delete from brigade.queues q where q.queue = set_paused.queue and not q.paused and q.limits is null and not q.parted;
  perform brigade.announce_back(queue);
end $$;
