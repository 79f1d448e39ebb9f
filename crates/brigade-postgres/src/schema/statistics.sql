-- Statistics: transactions only add rows to `statistics_new`, so none waits for another; a chore adds
-- them up into minutes, and a reader adds what is left.

create function brigade.add_arrays(a bigint[], b bigint[]) returns bigint[] language sql immutable as $$
  select case when a is null then b when b is null then a
      else array(select coalesce(x, 0) + coalesce(y, 0) from unnest(a, b) as t (x, y)) end
$$;
create aggregate brigade.sum_arrays(bigint[]) (sfunc = brigade.add_arrays, stype = bigint[]);

-- A histogram as `statistics` keeps it: these buckets have so many, and all together take so long.
create function brigade.histogram(buckets integer[], counts bigint[], total bigint) returns bigint[]
    language plpgsql immutable as $$
declare
  histogram bigint[] := array_fill(0::bigint, array[{bounds_count} + 2]);
begin
  if total is null then return null; end if;
  histogram[1] := total;
  for place in 1 .. cardinality(buckets) loop
    histogram[buckets[place] + 1] := counts[place];
  end loop;
  return histogram;
end $$;

-- New rows, one for each minute, queue and task.
create function brigade.summed(news brigade.statistics_new[]) returns setof brigade.minute_counts language sql as $$
  with waits as (
    select minute, queue, task, brigade.histogram(array_agg(wait_bucket), array_agg(jobs), sum(ms)::bigint) as wait from (
      select minute, queue, task, wait_bucket, sum(waited)::bigint as jobs, sum(wait_ms) as ms
        from unnest(news) where wait_bucket is not null group by minute, queue, task, wait_bucket) buckets
     group by minute, queue, task
  ), runs as (
    select minute, queue, task, brigade.histogram(array_agg(run_bucket), array_agg(jobs), sum(ms)::bigint) as run from (
      select minute, queue, task, run_bucket, sum(ran)::bigint as jobs, sum(run_ms) as ms
        from unnest(news) where run_bucket is not null group by minute, queue, task, run_bucket) buckets
     group by minute, queue, task
  )
  select minute, queue, task, n.pushed, n.done, n.failed, n.crashed, n.interrupted, n.dead, n.cancelled, w.wait, r.run
    from (
      select minute, queue, task, sum(pushed)::bigint as pushed, sum(done)::bigint as done, sum(failed)::bigint as failed,
          sum(crashed)::bigint as crashed, sum(interrupted)::bigint as interrupted, sum(dead)::bigint as dead,
          sum(cancelled)::bigint as cancelled
        from unnest(news) group by minute, queue, task) n
    left join waits w using (minute, queue, task) left join runs r using (minute, queue, task)
$$;

create function brigade.hour_of(moment timestamptz) returns timestamptz language sql immutable as $$
  select to_timestamp(floor(extract(epoch from moment) / 3600) * 3600)
$$;

-- Adds some new rows to their minutes; gives how many. One transaction at a time does so, and another
-- one does nothing meanwhile.
create function brigade.fold_statistics(most integer) returns integer language plpgsql set jit = off as $$
#variable_conflict use_column
declare
  sums brigade.minute_counts[];
  folded integer;
begin
  if not pg_try_advisory_xact_lock({fold_lock}) then return 0; end if;
  with gone as (
    delete from brigade.statistics_new where ctid = any(array(select ctid from brigade.statistics_new limit most))
    returning *
  ), news as (
    select array_agg(g::brigade.statistics_new) as news, count(*) as folded from gone g
  )
  select array(select s::brigade.minute_counts from brigade.summed(n.news) s), n.folded into sums, folded from news n;
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
create function brigade.with_task_names(sums brigade.minute_counts[]) returns brigade.minute_counts[]
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
  select array_agg(s::brigade.minute_counts) from summed s
$$;

create function brigade.add_sums(sums brigade.minute_counts[]) returns void language sql as $$
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
create function brigade.read_statistics(of_queue text, since timestamptz) returns setof brigade.minute_counts
    language sql stable set jit = off
    {safe_path} as $$
  with asked as (
    select date_trunc('minute', case when since >= kept then since + interval '59.999999 seconds' else kept end) as first
      from (select brigade.wall() - brigade.ms({statistics_kept_ms}) as kept) day
  )
  select minute, queue, task, pushed, done, failed, crashed, interrupted, dead, cancelled, wait, run
    from brigade.statistics where minute >= (select first from asked) and (of_queue is null or queue = of_queue)
   union all
  select s.* from brigade.summed(array(
      select n::brigade.statistics_new from brigade.statistics_new n
       where minute >= (select first from asked) and (of_queue is null or queue = of_queue))) s
$$;
