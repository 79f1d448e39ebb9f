-- How jobs end for good, whatever ends them: the rows are deleted, what is kept goes to `ended`, the
-- change is noted, and then those that wait for the job go on.

-- `kind` says what happened (a `JobEventKind`), `state` what the job is from now on: 5 done, 6 dead,
-- 7 cancelled; null: it is removed and was not done.
create function brigade.end_job(id bigint, state integer, reason text, result text, kind text,
    attempt integer, cost text, run bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
  j brigade.jobs;
begin
  delete from brigade.jobs d where d.id = end_job.id returning * into j;
  if not found then return; end if;
  if state in (6, 7) or (state = 5 and j.keep_ms is not null) then
    insert into brigade.ended (id, ended_at, remove_at, pushed_at, began_at, begins_by, unserved_at,
        keep_ms, token, priority, attempts, failed, crashed, interrupted, lost, unserved, state,
        is_plain, queue, task, key, partition, unique_key, payload, options, history, reason, result)
    values (j.id, wall,
        case state when 5 then wall + brigade.ms(j.keep_ms) when 7 then wall + brigade.ms({cancelled_kept_ms}) end,
        j.pushed_at, j.began_at, j.begins_by, j.unserved_at, j.keep_ms, j.token, j.priority, j.attempts,
        j.failed, j.crashed, j.interrupted, j.lost, j.unserved, state, j.is_plain, j.queue, j.task,
        j.key, j.partition, j.unique_key, j.payload, j.options, j.history, reason, result);
  end if;
  if kind is not null then
    perform brigade.note(kind, j.id, j.queue, j.task, coalesce(state, j.state), attempt, reason, cost, run);
  end if;
  if j.state = 3 then
    perform brigade.announce_room(array[j.queue]);
  end if;
  if j.is_plain then return; end if;
  perform brigade.give_up_unique(j.queue, j.unique_key, j.id);
  perform brigade.release_key(j.queue, j.key);
  perform brigade.pass_end_on(j.id, state, reason, result);
end $$;

-- A record as `AttemptRecord` is read.
create function brigade.record_of(attempt integer, record text) returns text language sql as $$
  select '{"attempt":' || attempt || ',"at":{"secs_since_epoch":' || floor(epoch)::bigint
      || ',"nanos_since_epoch":' || ((epoch - floor(epoch)) * 1000000)::bigint * 1000 || '},' || record
    from (select extract(epoch from brigade.wall()) as epoch) wall
$$;

-- What a record has from the kind on, if there is no report.
create function brigade.plain_record(kind text, reason text) returns text language sql immutable as $$
  select '"kind":' || to_json(kind) || ',"reason":' || to_json(reason) || '}'
$$;

-- Adds a record to the history of a job: `record` is its JSON text from the kind on.
create function brigade.add_record(id bigint, attempt integer, record text) returns void language sql as $$
  update brigade.jobs p
     set history = (
       select (kept || entry)[greatest(1, cardinality(kept) + 2 - {history_max}):]
         from (select case when entry like '%"kind":"unserved"%' and p.history[cardinality(p.history)] like '%,"kind":"unserved",%'
                        then p.history[:cardinality(p.history) - 1] else coalesce(p.history, '{}') end as kept, entry
                 from brigade.record_of(attempt, record) entry) given)
   where p.id = add_record.id
$$;

-- Why a job is dead that had to begin by now, after so many attempts.
create function brigade.too_late(attempts integer) returns text language sql immutable as $$
  select case attempts when 0 then {never_began} else {out_of_time} || attempts end
$$;
