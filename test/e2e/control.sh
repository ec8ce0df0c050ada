#!/usr/bin/env bash
# A busy loop gets the CPU time that a rule gives it: before, during, and after the
# agent, and after the agent was killed, be it one without root. What somebody else sets
# stays.
. "$(dirname "$0")/lib.bash"

new_cgroup busy
task=$cgroup
quota=
for dir in "${cgroups[@]}"; do [ ! -e "$dir/cpu.cfs_quota_us" ] && [ ! -e "$dir/cpu.max" ] || quota=$dir; done
need cpu-quota test -n "$quota"
if [ -e "$quota/cpu.max" ]; then files=(cpu.max); else files=(cpu.cfs_quota_us cpu.cfs_period_us); fi
# limit: what the kernel has, "quota period" in µs.
limit() { (cd "$quota" && cat "${files[@]}" | paste -sd ' '); }

in_cgroup "$task" bash -c 'while :; do :; done'
worker=$pid
# share: the CPUs that the busy loop really got, over three seconds; on a busy host rather
# a bit less than more, as the clock is read outside.
share() {
	local p0 p1 t0 t1
	t0=$(date +%s%N)
	read -r p0 _ <"/proc/$worker/schedstat"
	sleep 3
	read -r p1 _ <"/proc/$worker/schedstat"
	t1=$(date +%s%N)
	awk "BEGIN { printf \"%.3f\", ($p1 - $p0) / ($t1 - $t0) }"
}

cd "$tmp"
cat >config.yaml <<-YAML
	runner: !AllocationRunner
	  node: !AutoNode
	  interval: 500ms
	  metrics_storage: !PrometheusStorage
	  state_dir: $tmp/state
	  allocation_configuration: {cpu_quota_period: 100000}
	  allocator: !StaticAllocator
	    rules:
	      - task_id: $task
	        allocations: {cpu_quota: 0.1}
YAML
chmod 644 config.yaml
want=$(awk "BEGIN { print 0.1 * $(getconf _NPROCESSORS_ONLN) }") # CPUs; one process uses 1 at most

before=$(limit)
echo "$name: before: $before; the busy loop gets $(share) CPUs"
echo "$name: owca plan:"
"$tmp/owca" plan --config config.yaml | tee plan.out | sed 's/^/  | /'
grep -q '^1 change; owca run would make it$' plan.out || fail "owca plan: not one change"
[ "$(limit)" = "$before" ] && [ ! -e state ] || fail "owca plan has changed something"

limited() { [ "$(limit)" != "$before" ]; }
restored() { [ "$(limit)" = "$before" ]; }

start agent "$tmp/owca" run --root --config config.yaml
agent=$pid
eventually 20 limited || fail "no limit"
during=$(limit)
got=$(share)
echo "$name: during, 0.1 of this host, which is $want CPUs: $during; the busy loop gets $got CPUs"
check "$got <= 1.15 * $want + 0.02" # a period's end may overrun
check "$got > 0"                    # how much, that is up to what else the host does
echo "$name: owca leases:"
"$tmp/owca" leases --state-dir state | tee leases.out | sed 's/^/  | /'
grep -q "^$task  *cpu_quota .* held " leases.out || fail "owca leases: not held"
get /metrics >metrics
check "$(value metrics owca_agent_leases) == 1"
guardian=$(pgrep -P "$agent" -f guardian || :)
[ -z "$guardian" ] || echo "$name: the guardian has $(awk '/^Pss:/ { print $2 " " $3 }' "/proc/$guardian/smaps_rollup") (Pss), $(awk '/^Private_Dirty:/ { print $2 " " $3 }' "/proc/$guardian/smaps_rollup") of it its own"
stop "$agent"
[ "$(limit)" = "$before" ] || fail "after SIGTERM it is $(limit)"
echo "$name: after SIGTERM: $(limit); the busy loop gets $(share) CPUs"

start killed "$tmp/owca" run --root --config config.yaml
agent=$pid
eventually 20 limited || fail "no limit"
held=$(limit)
t0=$(date +%s%N)
kill -KILL "$agent"
wait "$agent" 2>/dev/null || :
until restored; do
	[ $(($(date +%s%N) - t0)) -lt 20000000000 ] || fail "nobody restores after SIGKILL: $(limit)"
done
t1=$(date +%s%N)
echo "$name: kill -9 at $held: $(limit) after $(((t1 - t0) / 1000000)) ms"
left() { ! "$tmp/owca" leases --state-dir state | grep -q "$task"; }
eventually 10 left || fail "the journal is not empty after the guardian"

start foreign "$tmp/owca" run --root --config config.yaml
agent=$pid
eventually 20 limited || fail "no limit"
if [ -e "$quota/cpu.max" ]; then echo "77000 100000" >"$quota/cpu.max"; else echo 77000 >"$quota/cpu.cfs_quota_us"; fi
other=$(limit)
yielded() { get /metrics >metrics && [ "$(value metrics owca_agent_lease_ends_total 'how="foreign"')" = 1 ]; }
eventually 20 yielded || fail "a foreign change is not counted"
ticks=$(value metrics owca_ticks_total)
later() { get /metrics >metrics && [ "$(value metrics owca_ticks_total)" -ge $((ticks + 3)) ]; }
eventually 20 later || fail "the agent does not go on"
[ "$(limit)" = "$other" ] || fail "a foreign change is fought over: $(limit)"
stop "$agent"
[ "$(limit)" = "$other" ] || fail "a foreign change is undone at the end: $(limit)"
echo "$name: somebody else sets $other: it stays, also after the end"
grep -h "$task" foreign.err | sed 's/^/  | /'
[ "$("$tmp/owca" leases --state-dir state)" = "owca holds no limit, and no agent runs with the state_dir state" ] || fail "a foreign change is left in the journal"

# As a unit with a user of its own runs it. Root, whom that user could deceive, restores as
# that user: by the very command that it is told.
if [ -e "$quota/cpu.max" ]; then echo "$before" >"$quota/cpu.max"; else echo "${before% *}" >"$quota/cpu.cfs_quota_us"; fi
mkdir -m 700 theirs
chown 4711:4712 theirs
sed "s|state_dir: .*|state_dir: $tmp/theirs\\n  guardian: false|" config.yaml >user.yaml
chmod 644 user.yaml
start user setpriv --reuid=4711 --regid=4712 --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override "$tmp/owca" run --config user.yaml
agent=$pid
eventually 20 limited || fail "no limit of another user"
kill -KILL "$agent"
wait "$agent" 2>/dev/null || :
status=0
"$tmp/owca" leases --state-dir theirs | grep -q "^$task .* held " || fail "owca leases of root: not held"
"$tmp/owca" restore --state-dir "$tmp/theirs" 2>refused.err || status=$?
[ $status = 1 ] && limited || fail "root restores what another user wrote: $status"
command=$(sed -n 's/.*: \(setpriv .*\) (as root).*/\1/p' refused.err)
[ -n "$command" ] || fail "what root is told: $(cat refused.err)"
PATH=$tmp:$PATH bash -c "$command" | grep -q "^$task: cpu_quota: .*: restored no limit" || fail "$command does not restore"
[ "$(limit)" = "$before" ] || fail "after owca restore it is $(limit)"
echo "$name: kill -9 as user 4711, then $command: $(limit)"
for log in agent.err foreign.err user.err; do
	if grep -E 'level=(ERROR|CRITICAL)' $log; then fail "errors"; fi
done
