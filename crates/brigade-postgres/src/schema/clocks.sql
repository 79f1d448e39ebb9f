-- Time is the server's alone. Tests move it by two settings of their transaction, in milliseconds.

-- For leases: a wall clock that is set in a test does not move them.
create function brigade.now() returns timestamptz language sql volatile as $$
  select clock_timestamp()
    + coalesce(nullif(current_setting('brigade.ahead', true), '')::bigint, 0) * interval '1 millisecond'
$$;

-- For everything else.
create function brigade.wall() returns timestamptz language sql volatile as $$
  select brigade.now()
    + coalesce(nullif(current_setting('brigade.wall', true), '')::bigint, 0) * interval '1 millisecond'
$$;

create function brigade.ms(millis bigint) returns interval language sql immutable as $$
  select millis * interval '1 millisecond'
$$;
