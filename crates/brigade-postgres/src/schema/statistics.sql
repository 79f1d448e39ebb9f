-- Statistics: transactions only add rows to `statistics_new`, so none waits for another; a chore adds
-- them up into minutes, and a reader adds what is left.

create function brigade.add_arrays(a bigint[], b bigint[]) returns bigint[] language sql immutable as $$
  select case when a is null then b when b is null then a
      else array(select coalesce(x, 0) + coalesce(y, 0) from unnest(a, b) as t (x, y)) end
$$;
create aggregate brigade.sum_arrays(bigint[]) (sfunc = brigade.add_arrays, stype = bigint[]);

create function brigade.hour_of(moment timestamptz) returns timestamptz language sql immutable as $$
  select to_timestamp(floor(extract(epoch from moment) / 3600) * 3600)
$$;

-- Adds some new rows to their minutes; gives how many. One transaction at a time does so, and another
-- one does nothing meanwhile.
create function brigade.fold_statistics(most integer) returns integer language plpgsql set jit = off as $$
#variable_conflict use_column
declare
  sums brigade.statistics_new[];
  folded integer;
begin
  if not pg_try_advisory_xact_lock({fold_lock}) then return 0; end if;
  with gone as (
    delete from brigade.statistics_new where ctid = any(array(select ctid from brigade.statistics_new limit most))
    returning *
  ), summed as (
    select minute, queue, task, sum(pushed)::bigint, sum(done)::bigint, sum(failed)::bigint,
        sum(crashed)::bigint, sum(interrupted)::bigint, sum(dead)::bigint, sum(cancelled)::bigint,
        brigade.sum_arrays(wait), brigade.sum_arrays(run)
      from gone group by minute, queue, task
  )
  select array_agg(s::brigade.statistics_new), (select count(*) from gone) into sums, folded from summed s;
  if folded > 0 then
    perform brigade.add_sums(brigade.with_task_names(sums));
    delete from brigade.statistics where number in (
      select number from (select number, minute from brigade.statistics order by number limit 500) oldest
       where minute < brigade.wall() - brigade.ms({statistics_kept_ms})
          or number <= (select max(number) from brigade.statistics) - {statistics_rows_max});
  end if;
  return folded;
end $$;

-- Of each queue, the first tasks of an hour keep their names, and the others get one together.
create function brigade.with_task_names(sums brigade.statistics_new[]) returns brigade.statistics_new[]
    language sql as $$
  with given as (
    select s.*, brigade.hour_of(s.minute) as hour from unnest(sums) s
  ), unknown as (
    select queue, hour, task,
        row_number() over (partition by queue, hour order by min(minute), task) as place
      from given g
     where task not in ('', {other_tasks}) and not exists (
       select from brigade.statistics k where k.queue = g.queue and k.task = g.task
          and k.minute >= g.hour and k.minute < g.hour + interval '1 hour')
     group by queue, hour, task
  ), known as (
    select queue, hour, (
        select count(distinct k.task) from brigade.statistics k where k.queue = h.queue
           and k.minute >= h.hour and k.minute < h.hour + interval '1 hour'
           and k.task not in ('', {other_tasks})) as tasks
      from (select distinct queue, hour from unknown) h
  ), named as (
    select g.*, case when u.place + k.tasks > {tasks_max} then {other_tasks} else g.task end as name
      from given g left join unknown u using (queue, hour, task) left join known k using (queue, hour)
  ), summed as (
    select minute, queue, name, sum(pushed)::bigint, sum(done)::bigint, sum(failed)::bigint,
        sum(crashed)::bigint, sum(interrupted)::bigint, sum(dead)::bigint, sum(cancelled)::bigint,
        brigade.sum_arrays(wait), brigade.sum_arrays(run)
      from named group by minute, queue, name
  )
  select array_agg(s::brigade.statistics_new) from summed s
$$;

create function brigade.add_sums(sums brigade.statistics_new[]) returns void language sql as $$
  with added as (
    update brigade.statistics s
       set pushed = s.pushed + n.pushed, done = s.done + n.done, failed = s.failed + n.failed,
           crashed = s.crashed + n.crashed, interrupted = s.interrupted + n.interrupted,
           dead = s.dead + n.dead, cancelled = s.cancelled + n.cancelled,
           wait = brigade.add_arrays(s.wait, n.wait), run = brigade.add_arrays(s.run, n.run)
      from unnest(sums) n where s.queue = n.queue and s.minute = n.minute and s.task = n.task
    returning s.queue, s.minute, s.task
  )
  insert into brigade.statistics (minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, wait, run)
  select n.* from unnest(sums) n
   where not exists (select from added a where a.queue = n.queue and a.minute = n.minute and a.task = n.task)
$$;

-- Minutes from this one on (null: all that are kept), also those of rows that are not added up yet,
-- so a minute may be there twice.
create function brigade.read_statistics(of_queue text, since timestamptz) returns setof brigade.statistics_new
    language sql stable set jit = off
    {safe_path} as $$
  with asked as (
    select date_trunc('minute', case when since >= kept then since + interval '59.999999 seconds' else kept end) as first
      from (select brigade.wall() - brigade.ms({statistics_kept_ms}) as kept) day
  )
  select minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, wait, run
    from brigade.statistics where minute >= (select first from asked) and (of_queue is null or queue = of_queue)
   union all
  select minute, queue, task, sum(pushed)::bigint, sum(done)::bigint, sum(failed)::bigint,
      sum(crashed)::bigint, sum(interrupted)::bigint, sum(dead)::bigint, sum(cancelled)::bigint,
      brigade.sum_arrays(wait), brigade.sum_arrays(run)
    from brigade.statistics_new where minute >= (select first from asked) and (of_queue is null or queue = of_queue)
   group by minute, queue, task
$$;
