-- Flows: jobs that wait for others.

-- The end of a job reaches the one that waits for it.
create function brigade.pass_end_on(job bigint, state integer, reason text, result text) returns void language plpgsql as $$
#variable_conflict use_column
begin
  return;
end $$;

-- Cancels some of the jobs that cancelled ones wait for; gives how many.
create function brigade.cancel_flows(most integer) returns integer language sql as $$ select 0 $$;

-- Passes some ends on that are noted; gives how many.
create function brigade.continue_flows(most integer) returns integer language sql as $$ select 0 $$;

-- Takes the end of a dead letter back, with those behind it, which wait for it again.
create function brigade.take_back(job bigint) returns void language plpgsql as $$
#variable_conflict use_column
begin
  return;
end $$;

-- Puts a dead letter back: to be run, or, if it never got what its parents left, to be given that.
create function brigade.come_back(job bigint) returns void language plpgsql as $$
#variable_conflict use_column
begin
  perform brigade.make_ready(job, brigade.wall());
end $$;

-- Notes that what a cancelled job waits for is to be cancelled too.
create function brigade.cancel_parents(job bigint, reason text) returns void language plpgsql as $$
#variable_conflict use_column
begin
  return;
end $$;
