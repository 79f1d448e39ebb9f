-- Why a job does not run, and dead letters in groups. Both read with the snapshot of their caller and take
-- no lock. Their settings keep the plans at the indexes, whatever the statistics of the tables say.

-- What decides about when a job is run; `due_at` if it is due later. `key_job` comes before it in its
-- key, and `before` is how many ready jobs are handed out before it.
create function brigade.why(id bigint, out queue text, out state smallint, out due_at timestamptz,
    out holder text, out lease_left_ms bigint, out cancel text, out reason text, out last_record text,
    out unserved integer, out unserved_at timestamptz, out key text, out partition text,
    out parents_left integer, out unsettled bigint[], out key_job bigint, out key_state smallint,
    out before bigint, out paused boolean, out limits text, out is_served boolean) language plpgsql stable
    set enable_seqscan = off set enable_bitmapscan = off set jit = off
    {safe_path} as $$
#variable_conflict use_column
declare
  j record;
begin
  select * into j from brigade.all_jobs a where a.id = why.id;
  if not found then return; end if;
  queue := j.queue;
  state := j.state;
  due_at := j.due_at;
  holder := j.holder;
  lease_left_ms := extract(epoch from j.lease_until - brigade.now()) * 1000;
  cancel := j.cancel;
  reason := j.reason;
  last_record := j.history[cardinality(j.history)];
  unserved := j.unserved;
  unserved_at := j.unserved_at;
  key := j.key;
  partition := j.partition;
  parents_left := coalesce(j.parents_left, 0);
  select q.paused, q.limits into paused, limits from brigade.queues q where q.queue = j.queue;
  is_served := brigade.has_consumer(j.queue);
  if j.state = 2 and parents_left > 0 then
    unsettled := array(select l.job from brigade.links l join brigade.jobs m on m.id = l.job
      where l.dependent = j.id order by l.job limit 10);
  elsif j.state = 2 then
    select e.id, e.state into key_job, key_state from brigade.jobs e
     where e.queue = j.queue and e.key = j.key and e.id <> j.id and (e.id < j.id or e.state = 3)
     order by e.id limit 1;
  elsif j.state = 0 and (limits::json ->> 'turns')::boolean then
    before := (select count(*) from brigade.jobs r where r.state = 0 and r.queue = j.queue
        and r.partition = j.partition and r.priority > j.priority)
      + (select count(*) from brigade.jobs r where r.state = 0 and r.queue = j.queue
        and r.partition = j.partition and r.priority = j.priority and r.id < j.id);
  elsif j.state = 0 then
    before := (select count(*) from brigade.jobs r where r.state = 0 and r.queue = j.queue and r.priority > j.priority)
      + (select count(*) from brigade.jobs r where r.state = 0 and r.queue = j.queue and r.priority = j.priority and r.id < j.id);
  end if;
end $$;

-- Some of the dead letters behind this one, in groups.
create function brigade.dead_groups(of_queue text, after bigint, most integer) returns table (queue text,
    task text, reason text, jobs bigint, first timestamptz, last timestamptz, example bigint)
    language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set jit = off
    {safe_path} as $$
#variable_conflict use_column
begin
  if of_queue is null then
    return query select e.queue, e.task, e.reason, count(*), min(e.pushed_at), max(e.pushed_at), max(e.id)
      from (select * from brigade.ended d where d.state = 6 and d.id > after order by d.id limit most) e
     group by e.queue, e.task, e.reason;
  else
    return query select e.queue, e.task, e.reason, count(*), min(e.pushed_at), max(e.pushed_at), max(e.id)
      from (select * from brigade.ended d where d.state = 6 and d.queue = of_queue and d.id > after order by d.id limit most) e
     group by e.queue, e.task, e.reason;
  end if;
end $$;
