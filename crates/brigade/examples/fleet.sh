#!/usr/bin/env bash
# A master and two worker hosts, each in a network namespace of its own; one host is cut off for longer than the master waits, and comes back.
# Needs root and iproute2:
#
#   cargo build -p brigade --example fleet --features remote && crates/brigade/examples/fleet.sh target/debug/examples/fleet
set -euo pipefail
program=$(realpath "${1:?say where the example was built}")
mark="fleet$$"
FLEET_KEY=$("$program" key)
export FLEET_KEY

hosts=()
clean_up() {
  # Only what was started here.
  ((${#hosts[@]} == 0)) || kill "${hosts[@]}" 2>/dev/null || true
  for name in master one two; do ip netns del "$mark-$name" 2>/dev/null || true; done
}
trap clean_up EXIT

# The master's namespace is the switch: one pair of interfaces to each host.
ip netns add "$mark-master"
number=1
for name in one two; do
  ip netns add "$mark-$name"
  ip -n "$mark-master" link add "to-$name" type veth peer name eth0 netns "$mark-$name"
  ip -n "$mark-master" addr add "10.77.$number.1/24" dev "to-$name"
  ip -n "$mark-$name" addr add "10.77.$number.2/24" dev eth0
  ip -n "$mark-master" link set "to-$name" up
  ip -n "$mark-$name" link set eth0 up
  number=$((number + 1))
done

ip netns exec "$mark-master" "$program" master tcp://0.0.0.0:7000 &
master=$!
ip netns exec "$mark-one" "$program" host tcp://10.77.1.1:7000 one & hosts+=($!)
ip netns exec "$mark-two" "$program" host tcp://10.77.2.1:7000 two & hosts+=($!)

sleep 3
echo '-- two is cut off'
# Nothing arrives any more, in either direction, and nobody is told.
ip -n "$mark-master" link set to-two down
sleep 5
echo '-- two is back'
ip -n "$mark-master" link set to-two up
wait "$master"
