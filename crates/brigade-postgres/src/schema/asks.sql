-- Which queues have consumers: each process notes every set of queues that it asks for jobs of, and
-- renews that (`asks.rs`).

-- `is_only`: forget what else this process asked for.
create function brigade.note_ask(holder bigint, asks bigint, queues text[], is_only boolean)
    returns void language plpgsql
    {safe_path} as $$
#variable_conflict use_column
begin
  insert into brigade.asks as a (holder, asks, asked_at, queues) values (holder, asks, brigade.now(), queues)
  on conflict on constraint asks_pkey do update set asked_at = excluded.asked_at;
  delete from brigade.asks a where (a.holder, a.asks) in (
    select o.holder, o.asks from brigade.asks o
     where o.asked_at < brigade.now() - brigade.ms({asked_within_ms})
        or (is_only and o.holder = note_ask.holder and o.asks <> note_ask.asks)
     limit 200 for update skip locked);
end $$;

-- Whether a consumer asked for jobs of this queue lately, or has one.
create function brigade.has_consumer(queue text) returns boolean language sql stable
    {safe_path} as $$
  select exists (select from brigade.asks a
                  where a.asked_at >= brigade.now() - brigade.ms({asked_within_ms}) and a.queues @> array[has_consumer.queue])
      or exists (select from brigade.jobs j where j.state = 3 and j.queue = has_consumer.queue)
$$;
