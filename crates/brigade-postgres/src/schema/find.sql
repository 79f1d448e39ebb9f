-- Finding jobs: the ids of a queue and a state, in order.

-- The first ids after (or before, if `newest_first`) this one, of jobs of this queue in this state;
-- null for any. Conditions on other columns are the caller's.
create function brigade.candidates(queue text, state integer, after bigint, newest_first boolean, most integer)
    returns bigint[] language plpgsql stable
    set enable_seqscan = off set enable_bitmapscan = off set jit = off
    {safe_path} as $$
#variable_conflict use_column
declare
  behind text := format(' and id %s $3 order by id %s limit $4',
      case when newest_first then '<' else '>' end, case when newest_first then 'desc' else 'asc' end);
  parts text[] := '{}';
  found bigint[];
  seen bigint;
begin
  if state is null and queue is null then
    parts := array['select id from brigade.jobs where true', 'select id from brigade.ended where true'];
  else
    if coalesce(state, 0) = 0 and queue is null then
      parts := parts || 'select id from brigade.jobs where state = 0'::text;
    elsif coalesce(state, 0) = 0 then
      -- The index of ready jobs has the priority before the id.
      parts := parts || ('with recursive known (priority) as (
          select (select priority from brigade.jobs where state = 0 and queue = $1 order by priority desc limit 1)
          union all
          select (select priority from brigade.jobs where state = 0 and queue = $1 and priority < known.priority
              order by priority desc limit 1)
            from known where known.priority is not null)
        select r.id from known cross join lateral (
          select id from brigade.jobs j where state = 0 and queue = $1 and j.priority = known.priority' || behind || ') r where true')::text;
    end if;
    if state is null or state in (1, 2, 4) then
      parts := parts || ('select id from brigade.jobs where state in (1, 2, 4) and ($2 is null or state = $2)'
        || case when queue is not null then ' and queue = $1' else '' end)::text;
    end if;
    if coalesce(state, 3) = 3 then
      parts := parts || ('select id from brigade.jobs where state = 3' || case when queue is not null then ' and queue = $1' else '' end)::text;
    end if;
    if coalesce(state, 5) >= 5 then
      parts := parts || case
        when queue is null then 'select id from brigade.ended where state = $2'
        when state is not null then 'select id from brigade.ended where state = $2 and queue = $1'
        -- Each state is a range of the index.
        else (select string_agg(format('(select id from brigade.ended where state = %s and queue = $1', s) || behind || ')', ' union all ' order by s)
                from generate_series(5, 6) s) || ' union all select id from brigade.ended where state = 7 and queue = $1'
        end;
    end if;
  end if;
  if queue is null and state in (0, 1, 2, 4) then
    -- No index has these in the order of their ids. Common ones are among the next rows of the table.
    execute 'select array(select id from (select id, state from brigade.jobs where true' || replace(behind, '$4', '1000 + 2 * $4')
        || ') near where state = $2 limit $4)' into found using queue, state, after, most;
    if cardinality(found) = most then return found; end if;
    execute 'select count(*) from (select id from brigade.jobs where true' || replace(behind, '$4', '1000 + 2 * $4')
        || ') near' into seen using queue, state, after, most;
    if seen < 1000 + 2 * most then return found; end if;
  end if;
  execute 'select array_agg(id) from (select id from ('
      || (select string_agg('(' || part || behind || ')', ' union all ') from unnest(parts) part)
      || ') every where true' || behind || ') ids'
    into found using queue, state, after, most;
  return coalesce(found, '{}');
end $$;
