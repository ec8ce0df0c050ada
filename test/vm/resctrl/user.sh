#!/bin/busybox sh
# An ordinary user with CAP_DAC_OVERRIDE and CAP_SETUID monitors tasks of root. One
# thread is of effective uid 0 for it, and only that one.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

# The VM's own root is root's alone, which no capability would let in.
chmod 755 /
mounted || mount -t resctrl resctrl $fs
for task in gold silver bronze; do spin $task; done
configure 'rdt_enabled: true'
chown 1000 owca.yaml
start /tmp/as 1000 dac_override,setuid
sees gold silver bronze
euids=$(cat /proc/$agent/task/*/status | awk '$1 == "Uid:" { print $2, $3 }' | sort | uniq -c)
[ "$(echo "$euids" | awk '$3 == 0 { print $1, $2 }')" = "1 1000" ] || fail "not one thread of euid 0: $euids"
[ "$(echo "$euids" | awk '$3 != 1000 && $3 != 0 || $2 != 1000' | wc -l)" = 0 ] || fail "threads of others: $euids"
spin gold
eventually holds "$(group gold)" gold || fail "a new process of gold is not in its group"
stop
none_ours || fail "groups are left: $(ours)"
no_errors

# Without CAP_SETUID it says what is missing, and measures the rest.
rm agent.err
start /tmp/as 1000 dac_override
eventually grep -q CAP_SETUID agent.err || fail "does not ask for CAP_SETUID"
eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not measure the rest"
stop
none_ours || fail "groups are left: $(ours)"

# Without any, too.
rm agent.err
start /tmp/as 1000 ''
eventually grep -q CAP_DAC_OVERRIDE agent.err || fail "does not ask for CAP_DAC_OVERRIDE"
eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not measure the rest"
stop
no_errors
umount $fs
