-- A change of a job, as statistics and events learn of it. What changes many jobs at once notes them
-- in statements of its own. What each batch calls is written in plpgsql, which keeps its plans: a
-- function in SQL that is not a plain expression is planned again with each call. Whether events are
-- recorded is a part of the text of each statement that asks, for the same reason.

-- `kind` is the name of a `JobEventKind`; `run` is for how long the attempt ran, in milliseconds.
create function brigade.note(kind text, job bigint, queue text, task text, state integer,
    attempt integer, reason text, cost text, run bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
begin
  insert into brigade.statistics_new (minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, run_bucket, ran, run_ms)
  select date_trunc('minute', wall), note.queue, coalesce(note.task, ''), (kind = 'pushed')::int,
      (kind = 'done')::int, (kind = 'failed')::int, (kind = 'crashed')::int,
      (kind = 'interrupted')::int, (state = 6 and kind <> 'deleted')::int,
      (state = 7 and kind <> 'deleted')::int, brigade.bucket(run), 1, run
   where kind in ('pushed', 'done', 'failed', 'crashed', 'interrupted') or (state in (6, 7) and kind <> 'deleted');
  if {is_recording} then
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt, reason, cost)
    values (wall, job, queue, task, kind, state, attempt, left(reason, {event_reason_max}), cost);
  end if;
end $$;

-- The place of a duration in a histogram, from 1.
create function brigade.bucket(millis bigint) returns integer language sql immutable as $$
  select width_bucket(millis - 1, array[{bounds}]::bigint[]) + 1
$$;

-- Lets waiting consumers know that these queues have something new.
create function brigade.announce(queues text[]) returns void language plpgsql as $$
#variable_conflict use_column
begin
  perform pg_notify('brigade', '+' || queue) from (select distinct unnest(queues) as queue) named;
end $$;

-- The same for jobs that were pushed and are committed: nothing is lost if this is.
create function brigade.announce_committed(queues text[]) returns void language plpgsql
    security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform brigade.announce(queues);
end $$;

-- The same for a job that is back in its queue, maybe before others that were handed out.
create function brigade.announce_back(queue text) returns void language plpgsql as $$
begin
  perform pg_notify('brigade', '<' || queue);
end $$;
