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
# Who may do nothing can look, and does not remove what the agent has.
for command in 'resctrl --interval 200ms' 'check'; do
	# shellcheck disable=SC2086 # words
	/tmp/as 1000 '' $owca $command >shown 2>shown.err || fail "owca $command: $(cat shown.err)"
	[ ! -s shown.err ] || fail "owca $command: $(cat shown.err)"
	cat shown
	case $command in
	resctrl*) grep -q 'owca-gold.* /gold [1-9]' shown || fail "does not show gold" ;;
	check) grep -q 'making groups *not supported' shown || fail "does not say that it may not make groups" ;;
	esac
done
! $owca resctrl clean >shown 2>&1 || fail "removed groups of the agent"
grep -q "in use by process $agent " shown || fail "does not say who has it: $(cat shown)"
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

# Without any it does not start where monitoring is required, and says why; otherwise
# it measures the rest.
rm agent.err
start /tmp/as 1000 ''
status=0
wait "$agent" || status=$?
[ $status = 1 ] || fail "rdt_enabled: true without rights ends with $status"
grep -q 'cannot be written to.*CAP_DAC_OVERRIDE' agent.err || fail "does not ask for CAP_DAC_OVERRIDE"
configure
rm agent.err
start /tmp/as 1000 ''
eventually grep -q CAP_DAC_OVERRIDE agent.err || fail "does not ask for CAP_DAC_OVERRIDE"
eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not measure the rest"
stop
no_errors
umount $fs
