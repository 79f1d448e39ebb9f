-- Limits and turns: which of a queue's ready jobs may be handed out now.
--
-- One transaction at a time hands out jobs of a limited queue. What runs is counted where it is, among
-- the leased jobs, and starts are rows of their own, so an end of a job writes nothing for a limit.
-- Every job of a queue with limits by partition has a partition (`set_limits`).

-- Of a rate: how many starts, in how many milliseconds.
create function brigade.rate(rate jsonb) returns bigint[] language sql immutable as $$
  select array[(rate ->> 'starts')::bigint, ceil((rate ->> 'per')::numeric * 1000)::bigint]
   where jsonb_typeof(rate) = 'object'
$$;

-- What of a queue runs and was started, as far as its limits ask: a row for all of it, whose partition
-- is null, and one for each partition. `most_running` and `most_starts` are the limits that hold for the
-- row, `per_ms` is the time of the rate, and `first` its first start that still counts.
create function brigade.gate(queue text, limits jsonb, out partition text, out running bigint, out started bigint,
    out first timestamptz, out most_running bigint, out most_starts bigint, out per_ms bigint)
    returns setof record language sql stable
    set enable_seqscan = off set enable_bitmapscan = off set jit = off
    {safe_path} as $$
  with asked as (
    select (limits ->> 'running')::bigint as running, brigade.rate(limits -> 'starts') as starts,
        (limits ->> 'running_per_partition')::bigint as running_each,
        brigade.rate(limits -> 'starts_per_partition') as starts_each, brigade.wall() as wall
  ), leased as (
    select coalesce(j.partition, '') as partition, count(*) as running from brigade.jobs j
     where j.state = 3 and j.partition is not null and j.queue = gate.queue and j.at >= brigade.now()
       and (select running is not null or running_each is not null from asked)
     group by 1
  ), starts as (
    select s.partition, count(*) as started, min(s.at) as first from brigade.starts s
     where s.queue = gate.queue
       and s.at > (select wall - brigade.ms(starts_each[2]) from asked where starts_each is not null)
     group by 1
  )
  select null, (select coalesce(sum(running), 0)::bigint from leased), s.started, s.first, a.running, a.starts[1], a.starts[2]
    from asked a left join lateral (
      select count(*) as started, min(at) as first from brigade.starts s
       where a.starts is not null and s.queue = gate.queue and s.at > a.wall - brigade.ms(a.starts[2])) s on true
   union all
  select coalesce(l.partition, s.partition), coalesce(l.running, 0), coalesce(s.started, 0), s.first,
      a.running_each, a.starts_each[1], a.starts_each[2]
    from leased l full join starts s using (partition) cross join asked a
   where a.running_each is not null or a.starts_each is not null
$$;

create function brigade.is_by_partition(limits jsonb) returns boolean language sql immutable as $$
  select coalesce((limits ->> 'turns')::boolean, false) or limits ->> 'running_per_partition' is not null
      or limits ->> 'starts_per_partition' is not null
$$;

-- Locks the first ready jobs of a limited queue that may be handed out, in the order of their hand-out.
-- `priority` and `floor` as for `pick`, where partitions do not matter.
create function brigade.pick_within(queue text, limits jsonb, priority integer, floor bigint, most integer,
    wall timestamptz) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  by_turn boolean := coalesce((limits ->> 'turns')::boolean, false);
  room bigint;
  room_each bigint;
  closed jsonb;
  last_turn text;
  picked bigint[];
begin
  select least(most, g.most_running - g.running, g.most_starts - g.started) into room
    from brigade.gate(queue, limits) g where g.partition is null;
  if room <= 0 then return '{}'; end if;
  if not brigade.is_by_partition(limits) then
    return (brigade.pick(queue, priority, floor, room::integer, wall)).ids;
  end if;
  -- Of partitions that have less room than the queue, how much they have.
  select coalesce(jsonb_object_agg(g.partition, greatest(least(g.most_running - g.running, g.most_starts - g.started), 0)), '{}')
    into closed from brigade.gate(queue, limits) g where g.partition is not null;
  if by_turn then
    last_turn := coalesce((select t.partition from brigade.turns t where t.queue = pick_within.queue), '');
  end if;
  room_each := least((limits ->> 'running_per_partition')::bigint, (limits -> 'starts_per_partition' ->> 'starts')::bigint);
  if not by_turn then
    picked := brigade.pick_in_order(queue, closed, room_each, room, wall);
  end if;
  if picked is null then
    picked := brigade.pick_by_partition(queue, closed, room_each, last_turn, room, wall);
  end if;
  if exists (select from brigade.jobs j where j.id = any(picked) and j.key is not null) then
    picked := brigade.first_of_their_keys(picked);
  end if;
  if by_turn and cardinality(picked) > 0 then
    insert into brigade.turns as t (queue, partition)
    select j.queue, j.partition from brigade.jobs j where j.id = picked[cardinality(picked)]
    on conflict on constraint turns_pkey do update set partition = excluded.partition where t.partition <> excluded.partition;
  end if;
  return picked;
end $$;

-- The first ready jobs of partitions that have room, locked, without turns: those at the head of the
-- queue are looked at one after the other. Null if so many of them belong to partitions without room
-- that a look at each partition is worth more (`pick_by_partition`).
create function brigade.pick_in_order(queue text, room_left jsonb, room_each bigint, room bigint, wall timestamptz)
    returns bigint[] language plpgsql set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  candidates bigint[] := '{}';
  -- How many of each partition.
  candidates_of jsonb := '{}';
  picked bigint[];
  looked_at integer := 0;
  job record;
  of_partition bigint;
begin
  for job in select j.id, j.partition from brigade.jobs j where j.state = 0 and j.queue = pick_in_order.queue
      and j.partition is not null and (j.begins_by is null or j.begins_by >= wall)
     order by j.priority desc, j.id loop
    looked_at := looked_at + 1;
    if looked_at > room + {passed_over_max} then return null; end if;
    of_partition := coalesce((candidates_of ->> job.partition)::bigint, 0);
    continue when of_partition >= coalesce((room_left ->> job.partition)::bigint, room_each, room);
    candidates_of := candidates_of || jsonb_build_object(job.partition, of_partition + 1);
    candidates := candidates || job.id;
    exit when cardinality(candidates) >= room;
  end loop;
  select array_agg(id order by place) into picked from (
    select j.id, g.place from unnest(candidates) with ordinality as g (id, place)
      join brigade.jobs j on j.id = g.id where j.state = 0 for update of j skip locked) locked;
  return coalesce(picked, '{}');
end $$;

-- The first ready jobs of partitions that have room, locked. `room_left` has the room of each partition
-- that is known; others have `room_each`, or all. Partitions take turns behind `last_turn`; if it is
-- null, the priority and the order of the pushes count.
create function brigade.pick_by_partition(queue text, room_left jsonb, room_each bigint, last_turn text,
    room bigint, wall timestamptz) returns bigint[] language plpgsql
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  open_partitions text[] := brigade.open_partitions(queue, room_left, coalesce(last_turn, ''),
    case when last_turn is not null then room end);
  candidates bigint[];
  picked bigint[];
begin
  select array_agg(id order by place) into candidates from (
    select c.id, row_number() over (order by case when last_turn is not null then c.turn end,
          case when last_turn is not null then c.partition_place end, c.priority desc, c.id) as place
      from (
        select f.id, f.priority, o.place as partition_place,
            row_number() over (partition by o.place order by f.priority desc, f.id) as turn
          from unnest(open_partitions) with ordinality as o (partition, place)
         cross join lateral (
           select j.id, j.priority from brigade.jobs j
            where j.state = 0 and j.partition is not null and j.queue = pick_by_partition.queue
              and j.partition = o.partition and (j.begins_by is null or j.begins_by >= wall)
            order by j.priority desc, j.id
            limit least(case when last_turn is not null and cardinality(open_partitions) >= room then 1 else room end,
                coalesce((room_left ->> o.partition)::bigint, room_each, room))) f) c
     order by place limit room) chosen;
  select array_agg(id order by place) into picked from (
    select j.id, g.place from unnest(candidates) with ordinality as g (id, place)
      join brigade.jobs j on j.id = g.id where j.state = 0 for update of j skip locked) locked;
  return coalesce(picked, '{}');
end $$;

-- Partitions with ready jobs that have room: at most so many, from the one behind `start` on and once
-- round. The index gives each behind the one before, without a look at their jobs.
create function brigade.open_partitions(queue text, room_left jsonb, start text, most bigint)
    returns text[] language plpgsql
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  found_partitions text[] := '{}';
  here text;
begin
  for round in 1 .. 2 loop
    if round = 1 then
      here := brigade.partition_behind(queue, start);
    else
      select j.partition into here from brigade.jobs j where j.state = 0 and j.partition is not null
         and j.queue = open_partitions.queue order by j.partition limit 1;
    end if;
    while here is not null and (round = 1 or here <= start collate "C") loop
      if coalesce((room_left ->> here)::bigint, 1) > 0 then
        found_partitions := found_partitions || here;
        if cardinality(found_partitions) >= most then return found_partitions; end if;
      end if;
      here := brigade.partition_behind(queue, here);
    end loop;
  end loop;
  return found_partitions;
end $$;

create function brigade.partition_behind(queue text, partition text) returns text language plpgsql
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  found_partition text;
begin
  select j.partition into found_partition from brigade.jobs j where j.state = 0 and j.partition is not null
     and j.queue = partition_behind.queue and j.partition > partition_behind.partition collate "C"
   order by j.partition limit 1;
  return found_partition;
end $$;

-- Picks jobs of a limited queue and notes their starts; null if another transaction hands out its jobs
-- and this one is not to wait.
create function brigade.start_within(queue text, limits jsonb, priority integer, floor bigint, most integer,
    may_wait boolean) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  place bigint := hashtextextended(queue, {limits_seed});
  wall timestamptz;
  picked bigint[];
begin
  if may_wait then
    perform pg_advisory_xact_lock(place);
  elsif not pg_try_advisory_xact_lock(place) then
    return null;
  end if;
  -- Of now, and not of before the wait: starts of others since then would seem to be in the future.
  wall := brigade.wall();
  -- The clock was set back: no start may count for longer than the time of its rate.
  update brigade.starts s set at = wall where s.queue = start_within.queue and s.at > wall;
  picked := brigade.pick_within(queue, limits, priority, floor, most, wall);
  if limits ->> 'starts' is not null or limits ->> 'starts_per_partition' is not null then
    insert into brigade.starts (queue, partition, at)
    select j.queue, coalesce(j.partition, ''), wall from brigade.jobs j where j.id = any(picked);
  end if;
  return picked;
end $$;

-- Lets waiting consumers know that an attempt of these queues has ended, where that may let another begin.
create function brigade.announce_room(queues text[]) returns void language plpgsql as $$
#variable_conflict use_column
begin
  perform brigade.announce_back(q.queue) from brigade.queues q where q.queue = any(queues) and q.limits is not null;
end $$;

-- In how many milliseconds a start of some queue stops counting; null if none does.
create function brigade.next_start() returns bigint language sql stable
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
  select ceil(extract(epoch from min(s.first + brigade.ms(r.per_ms) - n.wall)) * 1000)::bigint
    from (select brigade.wall() as wall) n
   cross join brigade.queues q
   cross join lateral (values ((brigade.rate(q.limits::jsonb -> 'starts'))[2]),
       ((brigade.rate(q.limits::jsonb -> 'starts_per_partition'))[2])) r (per_ms)
   cross join lateral (select min(at) as first from brigade.starts s
                        where s.queue = q.queue and s.at > n.wall - brigade.ms(r.per_ms)) s
   where q.limits is not null and r.per_ms is not null
$$;

-- From now on every job that is pushed to this queue has a partition.
create function brigade.set_parted(queue text) returns void language sql
    {safe_path} {lock_timeout} as $$
  insert into brigade.queues as q (queue, parted) values (set_parted.queue, true)
  on conflict (queue) do update set parted = true
$$;

-- Gives some jobs of a queue behind this one their partitions; the last one that it saw, null if there
-- are no more.
create function brigade.give_partitions(queue text, after bigint, most integer) returns bigint
    language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
declare
  found_ids bigint[] := brigade.candidates(queue, null, after, false, most);
begin
  update brigade.jobs j set partition = coalesce(j.key, '')
   where j.id = any(found_ids) and j.queue = give_partitions.queue and j.partition is null;
  return case when cardinality(found_ids) = most then found_ids[most] end;
end $$;

-- Limits a queue, or takes its limits away. Transactions that are open now may still push jobs without
-- partitions: those are looked for when these have ended (`see_to_limits`).
create function brigade.set_limits(queue text, limits text, parted boolean) returns void language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
begin
  insert into brigade.queues as q (queue, limits, parted) values (set_limits.queue, set_limits.limits, set_limits.parted)
  on conflict (queue) do update set limits = excluded.limits, parted = excluded.parted;
  delete from brigade.queues q where q.queue = set_limits.queue and not q.paused and q.limits is null;
  delete from brigade.partings p where p.queue = set_limits.queue;
  if parted then
    insert into brigade.partings (queue, behind_xid, after)
    values (queue, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, 0);
  end if;
  if limits is null then
    delete from brigade.turns t where t.queue = set_limits.queue;
  end if;
  perform brigade.announce_back(queue);
end $$;

-- Forgets starts that no rate looks back to, and gives partitions to jobs of transactions that were open
-- when a queue was limited. Gives how many rows it saw at most of a kind.
create function brigade.see_to_limits(most integer) returns integer language plpgsql
    set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  parting brigade.partings;
  named text;
  longest bigint;
  forgotten integer;
  last_id bigint;
  answer integer := 0;
begin
  select s.queue into named from brigade.starts s order by s.queue, s.at limit 1;
  while named is not null loop
    select greatest((brigade.rate(q.limits::jsonb -> 'starts'))[2], (brigade.rate(q.limits::jsonb -> 'starts_per_partition'))[2])
      into longest from brigade.queues q where q.queue = named;
    delete from brigade.starts where ctid = any(array(
      select s.ctid from brigade.starts s where s.queue = named
         and s.at <= coalesce(brigade.wall() - brigade.ms(longest), 'infinity') order by s.at limit most));
    get diagnostics forgotten = row_count;
    answer := greatest(answer, forgotten);
    select s.queue into named from brigade.starts s where s.queue > named collate "C" order by s.queue, s.at limit 1;
  end loop;
  select * into parting from brigade.partings p
   where p.behind_xid <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint limit 1 for update skip locked;
  if found then
    last_id := brigade.give_partitions(parting.queue, parting.after, most);
    if last_id is null then
      delete from brigade.partings p where p.queue = parting.queue;
      perform brigade.announce_back(parting.queue);
    else
      update brigade.partings p set after = last_id where p.queue = parting.queue;
    end if;
    answer := most;
  end if;
  return answer;
end $$;
