-- What each process does now and then, and on which nothing depends (`upkeep.rs`).

-- Adds up statistics, numbers events, forgets old starts and old processes; `true` if there may be more to do.
create function brigade.keep_up(most integer) returns boolean language plpgsql
    {safe_path} {lock_timeout} as $$
#variable_conflict use_column
begin
  return greatest(brigade.fold_statistics(most), brigade.number_events(most), brigade.see_to_limits(most),
      brigade.forget_holders(most)) >= most;
end $$;
