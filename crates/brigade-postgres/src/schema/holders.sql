-- Processes that hold leases: what becomes of those that have ended (`holders.rs`).

-- Puts at most `most` jobs of a process that has ended back, and removes it once none is left. Gives how
-- many it found.
create function brigade.forget_holder(holder bigint, most integer) returns integer language plpgsql
    {safe_path} as $$
#variable_conflict use_column
declare
  held bigint[] := array(select j.id from brigade.jobs j where j.state = 3 and j.holder = forget_holder.holder order by j.id limit most);
  held_id bigint;
begin
  perform brigade.lock_keys(held);
  foreach held_id in array held loop
    perform from brigade.jobs j where j.id = held_id and j.state + 0 = 3 and j.holder = forget_holder.holder for update skip locked;
    if found then
      perform brigade.lose(held_id, 'the process that held it ended');
    end if;
  end loop;
  if cardinality(held) < most then
    delete from brigade.asks a where a.holder = forget_holder.holder;
    delete from brigade.holders h where h.number = forget_holder.holder
       and not exists (select from brigade.jobs j where j.state = 3 and j.holder = h.number);
  end if;
  return cardinality(held);
end $$;

-- Removes some processes that were not seen for a day and hold nothing. Others are looked at again in a
-- day.
create function brigade.forget_holders(most integer) returns integer language plpgsql as $$
#variable_conflict use_column
declare
  long_ago timestamptz := clock_timestamp() - interval '1 day';
  old bigint[] := array(select h.number from brigade.holders h where h.seen < long_ago limit most);
  holding bigint[];
begin
  if cardinality(old) = 0 then return 0; end if;
  holding := array(select distinct j.holder from brigade.jobs j where j.state = 3 and j.holder = any(old));
  update brigade.holders h set seen = clock_timestamp() where h.number = any(holding);
  delete from brigade.asks a where a.holder = any(old) and a.holder <> all(holding)
     and a.asked_at < brigade.now() - brigade.ms({asked_within_ms});
  delete from brigade.holders h where h.number = any(old) and h.number <> all(holding) and h.seen < long_ago;
  return cardinality(old);
end $$;
