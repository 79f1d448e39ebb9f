-- What applications call in transactions of their own, from any language and from triggers. The rules
-- are those of `push_many`. Both run with the rights of the schema's owner, so a role that pushes needs
-- no right on a table.

-- Pushes a job. The options are those of the HTTP API: docs/brokers.md lists them. Gives the id of the
-- job, or of the one that holds its unique key.
create function brigade.push(queue text, payload jsonb, options jsonb default '{}') returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  known constant text[] := array['address_space', 'at', 'backoff', 'cpu', 'delay', 'file_size', 'files', 'keep', 'key',
    'label', 'memory', 'partition', 'priority', 'processes', 'retries', 'task', 'timeout', 'traceparent', 'unique', 'unique_for', 'within'];
  unknown text;
  at timestamptz := options->>'at';
  delay bigint := brigade.option_ms(options, 'delay');
  within bigint := brigade.option_ms(options, 'within');
  keep bigint := brigade.option_ms(options, 'keep');
  unique_for bigint := brigade.option_ms(options, 'unique_for');
  stored jsonb;
  pushed record;
begin
  if jsonb_typeof(options) is distinct from 'object' then
    raise exception 'push: the options are a JSON object' using errcode = '22023';
  end if;
  select string_agg(key, ', ') into unknown from jsonb_object_keys(options) key where key <> all (known);
  if unknown is not null then
    raise exception 'push: there is no option %', unknown
      using errcode = '22023', hint = 'Options are ' || array_to_string(known, ', ') || '.';
  end if;
  perform brigade.check_name('queue', queue, {name_bytes_max});
  perform brigade.check_name('task', options->>'task', {name_bytes_max}),
      brigade.check_name(name, options->>name, {key_bytes_max})
    from unnest(array['key', 'unique', 'partition', 'label']) name;
  if payload is null then
    raise exception 'push: the payload is null; for a job without one give ''null''::jsonb' using errcode = '22004';
  end if;
  if octet_length(payload::text) > {payload_bytes_max} then
    raise exception 'push: the payload has % bytes and {payload_bytes_max} are allowed', octet_length(payload::text)
      using errcode = '54000', hint = 'Store it elsewhere, and push its name.';
  end if;
  perform brigade.check_values(options, at);
  if unique_for is not null and options->>'unique' is null then
    raise exception 'push: unique_for needs unique' using errcode = '22023';
  end if;
  stored := jsonb_strip_nulls(jsonb_build_object(
    'priority', (options->>'priority')::integer, 'retries', (options->>'retries')::integer,
    'retry', brigade.stored_retry(options, within), 'delay', brigade.stored_duration(delay),
    'at', case when at is not null then jsonb_build_object('secs_since_epoch', floor(extract(epoch from at))::bigint,
      'nanos_since_epoch', (extract(microseconds from at)::bigint % 1000000) * 1000) end,
    'key', options->>'key', 'partition', options->>'partition', 'unique', options->>'unique',
    'unique_for', brigade.stored_duration(unique_for),
    'timeout', brigade.stored_duration(brigade.option_ms(options, 'timeout')),
    'memory', (options->>'memory')::bigint, 'address_space', (options->>'address_space')::bigint,
    'cpu', brigade.stored_duration(brigade.option_ms(options, 'cpu')), 'files', (options->>'files')::integer,
    'processes', (options->>'processes')::integer, 'file_size', (options->>'file_size')::bigint,
    'label', options->>'label',
    'keep', brigade.stored_duration(keep), 'traceparent', options->>'traceparent'));
  select * into pushed from brigade.push_many(array[queue], array[options->>'task'], array[payload::text],
      array[nullif(stored, '{}')::text], array[(options->>'priority')::integer], array[at], array[delay],
      array[within], array[keep], array[options->>'key'], array[options->>'partition'],
      array[options->>'unique'], array[unique_for], null, null, true);
  return pushed.ids[1];
end $$;

-- Pushes jobs that a program of this library has checked: a JSON array. In its order their ids, and
-- whether they are new.
create function brigade.push_jobs(jobs text) returns table (id bigint, is_new boolean)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  pushed record;
begin
  select p.ids, p.is_new into pushed from (
    select array_agg(queue order by n) as queues, array_agg(task order by n) as tasks,
        array_agg(payload order by n) as payloads, array_agg(options order by n) as options,
        array_agg(priority order by n) as priorities, array_agg(brigade.moment(due_micros) order by n) as dues,
        array_agg(delay order by n) as delays, array_agg(within order by n) as withins,
        array_agg(keep order by n) as keeps, array_agg(key order by n) as keys,
        array_agg(partition order by n) as partitions, array_agg(unique_key order by n) as uniques,
        array_agg(unique_for order by n) as unique_fors
      from rows from (json_to_recordset(jobs::json) as (queue text, task text, payload text, options text,
          priority integer, due_micros bigint, delay bigint, within bigint, keep bigint, key text,
          partition text, unique_key text, unique_for bigint))
        with ordinality as g (queue, task, payload, options, priority, due_micros, delay, within, keep, key,
          partition, unique_key, unique_for, n)
  ) g, brigade.push_many(queues, tasks, payloads, options, priorities, dues, delays, withins, keeps, keys,
      partitions, uniques, unique_fors, null, null, true) p;
  return query select u.id, u.is_new from unnest(pushed.ids, pushed.is_new) u (id, is_new);
end $$;

create function brigade.moment(micros bigint) returns timestamptz language sql immutable as $$
  select timestamptz 'epoch' + micros * interval '1 microsecond'
$$;

-- An option that is a time, in milliseconds: a number of seconds, or a text as an interval is written.
create function brigade.option_ms(options jsonb, name text) returns bigint language plpgsql immutable
    set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  value jsonb := options->name;
  seconds numeric;
begin
  if value is null or jsonb_typeof(value) = 'null' then return null; end if;
  if jsonb_typeof(value) = 'number' then
    seconds := value::text::numeric;
  elsif jsonb_typeof(value) = 'string' then
    begin
      seconds := extract(epoch from (value #>> '{}')::interval);
    exception when others then
      seconds := null;
    end;
  end if;
  if seconds is null or seconds < 0 then
    raise exception 'push: % is a number of seconds, or a text like "90 s" or "2 hours", and not %', name, value
      using errcode = '22023';
  end if;
  return round(least(seconds, {far_seconds}) * 1000);
end $$;

-- Refuses what no name can be; null is none.
create function brigade.check_name(what text, name text, bytes_max integer) returns void language plpgsql immutable
    set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
  if what = 'queue' and name is null or name = '' or octet_length(name) > bytes_max or name ~ '[\x01-\x1f\x7f-\x9f]' then
    raise exception 'push: a % has 1 to % bytes and no control characters', what, bytes_max using errcode = '22023';
  end if;
end $$;

-- Refuses values that no consumer can read.
create function brigade.check_values(options jsonb, at timestamptz) returns void language plpgsql stable
    set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  wrong text;
begin
  if (options->>'retries')::numeric < 0 then
    raise exception 'push: retries is a number from 0 on, and not %', options->>'retries' using errcode = '22023';
  end if;
  select string_agg(format('%s is %s, and not %s', limits.name, limits.what, options->>limits.name), '; ') into wrong
    from (values ('memory', 'a number of bytes'), ('address_space', 'a number of bytes'),
      ('file_size', 'a number of bytes'), ('files', 'a number from 0 on'), ('processes', 'a number from 0 on'))
      limits (name, what)
    where (options->>limits.name)::numeric < 0;
  if wrong is not null then
    raise exception 'push: %', wrong using errcode = '22023';
  end if;
  if at not between '1970-01-01' and '9999-12-31' then
    raise exception 'push: at is a time from 1970 to 9999, and not %', options->>'at' using errcode = '22023';
  end if;
  if options->>'traceparent' !~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then
    raise exception 'push: traceparent has 55 characters, as W3C Trace Context writes it, and is not %',
      left(options->>'traceparent', 60) using errcode = '22023';
  end if;
  if jsonb_typeof(options->'backoff') <> 'object' then
    raise exception 'push: backoff is an object with base and cap, and not %', left(options->>'backoff', 60)
      using errcode = '22023';
  end if;
  if (options->'backoff') - 'base' - 'cap' <> '{}' then
    raise exception 'push: backoff has base and cap, and not %', left(options->>'backoff', 60) using errcode = '22023';
  end if;
end $$;

-- Times as `brigade_core::options` writes them.
create function brigade.stored_duration(millis bigint) returns jsonb language sql immutable as $$
  select jsonb_build_object('secs', millis / 1000, 'nanos', millis % 1000 * 1000000) where millis is not null
$$;

create function brigade.stored_retry(options jsonb, within bigint) returns jsonb language sql immutable as $$
  select jsonb_build_object(
      'base', brigade.stored_duration(coalesce(brigade.option_ms(options->'backoff', 'base'), {retry_base_ms})),
      'cap', brigade.stored_duration(coalesce(brigade.option_ms(options->'backoff', 'cap'), {retry_cap_ms})),
      'within', brigade.stored_duration(within))
   where within is not null or options ? 'backoff'
$$;
