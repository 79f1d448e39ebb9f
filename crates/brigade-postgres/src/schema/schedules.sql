-- Schedules: what is kept of them, and firing what is due. When a schedule has its ticks is decided
-- by the library; here the jobs of a tick and the step to the next tick are stored together or not
-- at all. `tick` is the next tick, `next_at` when it is looked at: the same, unless a schedule could
-- not be fired and was put off.

-- Stores a schedule, if the one of its name is still the one that the caller has seen (null: none).
create function brigade.store_schedule(name text, plan text, job text, tick timestamptz,
    seen_plan text, seen_tick timestamptz) returns boolean language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
begin
  insert into brigade.schedules as s (name, plan, job, tick, next_at)
  values (store_schedule.name, store_schedule.plan, store_schedule.job, store_schedule.tick, store_schedule.tick)
  on conflict on constraint schedules_pkey do update
     set plan = excluded.plan, job = excluded.job, tick = excluded.tick, next_at = excluded.next_at
   where s.plan = seen_plan and s.tick = seen_tick;
  if found then
    -- Consumers that wait learn of the new moment.
    perform pg_notify('brigade', '@');
  end if;
  return found;
end $$;

-- Pushes the jobs of a tick and moves on to the next, if this tick was not fired yet: the answer is
-- null otherwise. The arrays are those of `push_many`.
create function brigade.fire_schedule(name text, fired timestamptz, next timestamptz, queues text[],
    tasks text[], payloads text[], options text[], priorities integer[], dues timestamptz[],
    delays bigint[], withins bigint[], keeps bigint[], keys text[], partitions text[], uniques text[],
    unique_fors bigint[], dependents integer[], kinds text[], out ids bigint[], out is_new boolean[])
    language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
begin
  update brigade.schedules s set tick = fire_schedule.next, next_at = fire_schedule.next
   where s.name = fire_schedule.name and s.tick = fired;
  if not found then return; end if;
  ids := '{}';
  is_new := '{}';
  if cardinality(queues) > 0 then
    select p.ids, p.is_new into ids, is_new
      from brigade.push_many(queues, tasks, payloads, options, priorities, dues, delays, withins,
        keeps, keys, partitions, uniques, unique_fors, dependents, kinds, true) p;
  end if;
end $$;
