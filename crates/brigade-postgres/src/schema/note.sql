-- A change of a job, as statistics and events learn of it. What changes many jobs at once notes them
-- in statements of its own.

create function brigade.is_recording(wall timestamptz) returns boolean language sql stable as $$
  select exists (select from brigade.facts
                 where name = 'recording' and split_part(value, ' ', 1)::bigint > extract(epoch from wall) * 1000)
$$;

-- `kind` is the name of a `JobEventKind`; `run` is for how long the attempt ran, in milliseconds.
create function brigade.note(kind text, job bigint, queue text, task text, state integer,
    attempt integer, reason text, cost text, run bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
  wall timestamptz := brigade.wall();
begin
  insert into brigade.statistics_new (minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, run)
  select date_trunc('minute', wall), note.queue, coalesce(note.task, ''), (kind = 'pushed')::int,
      (kind = 'done')::int, (kind = 'failed')::int, (kind = 'crashed')::int,
      (kind = 'interrupted')::int, (state = 6 and kind <> 'deleted')::int,
      (state = 7 and kind <> 'deleted')::int, brigade.histogram(array[run])
   where kind in ('pushed', 'done', 'failed', 'crashed', 'interrupted') or (state in (6, 7) and kind <> 'deleted');
  if brigade.is_recording(wall) then
    insert into brigade.events_new (at, job, queue, task, kind, state, attempt, reason, cost)
    values (wall, job, queue, task, kind, state, attempt, left(reason, {event_reason_max}), cost);
  end if;
end $$;

-- Durations in milliseconds as `statistics` keeps them; null for none.
create function brigade.histogram(millis bigint[]) returns bigint[] language sql immutable as $$
  select case when count(took) > 0 then
      array[sum(took)::bigint] || array(
        select count(*) filter (where place = bound)
          from generate_series(0, {bounds_count}) bound
         cross join (select width_bucket(took - 1, array[{bounds}]::bigint[]) as place
                       from unnest(millis) took where took is not null) placed
         group by bound order by bound)
    end
    from unnest(millis) took where took is not null
$$;

-- Lets waiting consumers know that these queues have something new.
create function brigade.announce(queues text[]) returns void language sql as $$
  select pg_notify('brigade', '+' || queue) from (select distinct unnest(queues) as queue) named
$$;

-- The same for a job that is back in its queue, maybe before others that were handed out.
create function brigade.announce_back(queue text) returns void language sql as $$
  select pg_notify('brigade', '<' || queue)
$$;
