-- Events: transactions add rows to `events_new` while events are recorded, in the order in which they
-- work. Numbers are given to what has been committed, by one transaction after the other. So a number
-- is never followed by a lower one, and a transaction that stays open holds up nothing.

-- Gives numbers to some committed events, and forgets the oldest; gives how many it numbered.
create function brigade.number_events(most integer) returns integer language plpgsql
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  last bigint;
  numbered integer;
begin
  if not exists (select from brigade.events_new) then return 0; end if;
  perform pg_advisory_xact_lock({events_lock});
  last := coalesce((select max(seq) from brigade.events), 0);
  with gone as (
    delete from brigade.events_new where id = any(array(select id from brigade.events_new order by id limit most))
    returning *
  ), kept as (
    insert into brigade.events (seq, at, job, queue, task, kind, state, attempt, reason, cost)
    select last + row_number() over (order by id), at, job, queue, task, kind, state, attempt, reason, cost from gone
  )
  select count(*) into numbered from gone;
  delete from brigade.events where seq <= last + numbered - {events_kept};
  return numbered;
end $$;

-- Sees to it that events are recorded for so long from now on, and numbers some. `recording` is the
-- number of this recording; `is_new`: it began now. `is_more`: there may be more to number.
create function brigade.watch_events(lasts_ms bigint, renewed_ms bigint, most integer,
    out recording bigint, out is_new boolean, out is_more boolean, out last bigint) language plpgsql
    {safe_path} as $$
#variable_conflict use_column
declare
  wall bigint := extract(epoch from brigade.wall()) * 1000;
  known text;
  until bigint;
begin
  select value into known from brigade.facts where name = 'recording';
  until := coalesce(split_part(known, ' ', 1)::bigint, 0);
  if wall + lasts_ms - until >= renewed_ms then
    insert into brigade.facts (name, value) values ('recording', '0 0') on conflict (name) do nothing;
    select value into known from brigade.facts where name = 'recording' for update;
    until := split_part(known, ' ', 1)::bigint;
  end if;
  recording := split_part(known, ' ', 2)::bigint;
  is_new := until <= wall;
  if is_new then
    recording := recording + 1;
  end if;
  if wall + lasts_ms - until >= renewed_ms then
    update brigade.facts set value = (wall + lasts_ms) || ' ' || recording where name = 'recording';
  end if;
  is_more := brigade.number_events(most) >= most;
  last := coalesce((select max(seq) from brigade.events), 0);
end $$;

-- Events behind this one, of a queue or (null) of all, after a row with the numbers of the first and
-- the last that are kept.
create function brigade.read_events(after bigint, of_queue text, most integer) returns table (first bigint,
    last bigint, seq bigint, at timestamptz, job bigint, queue text, task text, kind text, state smallint,
    attempt integer, reason text, cost text) language sql stable set jit = off
    {safe_path} as $$
  select k.first, k.last, e.*
    from (select coalesce(min(seq), 0) as first, coalesce(max(seq), 0) as last from brigade.events) k
    left join lateral (
      select v.* from brigade.events v where v.seq > least(after, k.last) and (of_queue is null or v.queue = of_queue)
       order by v.seq limit most) e on true
   order by e.seq
$$;
