-- Keys: jobs of one key run one at a time, in the order of their pushes. Unique keys: while one is
-- held, another push with it gives the job that holds it.
--
-- Of a key's live jobs at most one is ready or leased, as seen under the lock of the key, which is
-- taken by our own short transactions only. A push takes no lock, because it may be part of a long
-- transaction of an application. So it may be wrong about the state of its job: one that is ready is
-- looked at once more when it is handed out (`lease.sql`), and one that is blocked leaves a row in
-- `key_checks`, which is seen to after the commit (`chores.sql`).

create function brigade.lock_of_key(queue text, key text) returns bigint language sql immutable as $$
  select hashtextextended(queue || e'\n' || key, 4711)
$$;

-- Locks the keys of these jobs and of those that wait for them, always in the same order.
create function brigade.lock_keys(jobs bigint[]) returns void language plpgsql as $$
#variable_conflict use_column
begin
  perform pg_advisory_xact_lock(place) from (
    select distinct brigade.lock_of_key(j.queue, j.key) as place from brigade.jobs j
     where j.key is not null
       and j.id = any(jobs || array(select l.dependent from brigade.links l where l.job = any(jobs) and l.dependent is not null))
     order by 1) locks;
end $$;

-- The same without waiting, for chores: those of these jobs whose keys could be locked. Others lock
-- the keys of the rest, which come in another round. So chores, which lock keys several times in one
-- transaction, are in no circle of transactions that wait for one another.
create function brigade.try_lock_keys(jobs bigint[]) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
  lock record;
  left_out bigint[] := '{}';
begin
  for lock in select brigade.lock_of_key(j.queue, j.key) as place, array_agg(g.id) as for_jobs from unnest(jobs) as g (id)
      cross join lateral (
        select g.id as of union all
        select l.dependent from brigade.links l where l.job = g.id and l.dependent is not null) keyed
      join brigade.jobs j on j.id = keyed.of and j.key is not null
     group by 1 loop
    if not pg_try_advisory_xact_lock(lock.place) then
      left_out := left_out || lock.for_jobs;
    end if;
  end loop;
  return array(select g.id from unnest(jobs) with ordinality as g (id, n) where g.id <> all (left_out) order by n);
end $$;

-- Whether other jobs of its key come before this one, or run.
create function brigade.is_behind(queue text, key text, job bigint) returns boolean language sql as $$
  select exists (select from brigade.jobs j where j.queue = is_behind.queue and j.key = is_behind.key and j.id < job)
      or exists (select from brigade.jobs j where j.queue = is_behind.queue and j.key = is_behind.key and j.state = 3 and j.id <> job)
$$;

-- Lets the earliest of a key's live jobs go on, if it was blocked by its key and no other runs.
create function brigade.release_key(queue text, key text) returns void language plpgsql as $$
#variable_conflict use_column
declare
  first record;
begin
  if key is null then return; end if;
  perform pg_advisory_xact_lock(brigade.lock_of_key(queue, key));
  select j.id, j.state into first from brigade.jobs j
   where j.queue = release_key.queue and j.key = release_key.key order by j.id limit 1;
  if not found or first.state <> 2 or brigade.is_behind(queue, key, first.id)
    or exists (select from brigade.links l where l.job = first.id and l.parents_left > 0) then
    return;
  end if;
  update brigade.jobs j set state = 0, at = brigade.wall() where j.id = first.id and j.state = 2;
  perform brigade.announce_back(queue);
end $$;

-- Makes a job ready, or blocked by its key; later ones of its key, which were free to go while it was
-- away, wait for it.
create function brigade.make_ready(job bigint, since timestamptz) returns void language plpgsql as $$
#variable_conflict use_column
declare
  own record;
begin
  update brigade.jobs j set state = 0, at = since, holder = null, leased_at = null, cancel = null
   where j.id = job returning j.queue, j.key into own;
  if own.key is not null then
    perform pg_advisory_xact_lock(brigade.lock_of_key(own.queue, own.key));
    update brigade.jobs j set state = 2
     where j.queue = own.queue and j.key = own.key and j.state = 0 and j.id > job;
    if brigade.is_behind(own.queue, own.key, job) then
      update brigade.jobs j set state = 2 where j.id = job;
    end if;
  end if;
  perform brigade.announce_back(own.queue);
end $$;

-- Holds a unique key for a job; gives the job that holds it already, if there is one. Jobs of `pushed`
-- are stored later in the same push, and count as live. Each look is a statement of its own, so that
-- it sees what was committed while the one before it waited. A duplicate locks nothing: it may be
-- pushed in a long transaction of an application, which then delays no settlement of the holder.
create function brigade.hold_unique(queue text, unique_key text, job bigint, until timestamptz, pushed bigint[])
    returns bigint language plpgsql as $$
#variable_conflict use_column
declare
  held brigade.unique_keys;
begin
  loop
    select * into held from brigade.unique_keys u
     where u.queue = hold_unique.queue and u.unique_key = hold_unique.unique_key;
    if found then
      if held.job = hold_unique.job then
        -- It held the key beyond its end. The lock keeps the removal of old keys away from it.
        perform from brigade.unique_keys u
         where u.queue = held.queue and u.unique_key = held.unique_key and u.job = held.job for update;
        if found then return null; end if;
        continue;
      end if;
      if held.until > brigade.wall() or held.job = any(pushed)
        or exists (select from brigade.jobs j where j.id = held.job) then
        return held.job;
      end if;
      delete from brigade.unique_keys u where u.queue = held.queue and u.unique_key = held.unique_key
         and u.job = held.job and u.until is not distinct from held.until;
    end if;
    insert into brigade.unique_keys (queue, unique_key, job, until)
    values (hold_unique.queue, hold_unique.unique_key, hold_unique.job, hold_unique.until)
    on conflict do nothing;
    if found then return null; end if;
  end loop;
end $$;

-- Gives up a unique key with the end of its job, unless it is held for a time.
create function brigade.give_up_unique(queue text, unique_key text, job bigint) returns void language sql as $$
  delete from brigade.unique_keys u
   where unique_key is not null and u.queue = give_up_unique.queue
     and u.unique_key = give_up_unique.unique_key and u.job = give_up_unique.job
     and coalesce(u.until, '-infinity') <= brigade.wall()
$$;
