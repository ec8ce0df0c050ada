#!/bin/busybox sh
# kill -9: the next one adopts the groups with what they counted, and removes those
# of tasks that have ended meanwhile.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

mounted || mount -t resctrl resctrl $fs
for task in gold silver bronze; do spin $task; done
configure 'rdt_enabled: true'
start
sees gold silver bronze
kill -KILL $agent
wait $agent || :
ours >before
[ "$(wc -l <before)" = 3 ] || fail "not one group a task: $(cat before)"
bronze=$(group bronze)
for task in gold silver; do
	cat "$(group $task)"/mon_data/*/mbm_total_bytes | awk '{ n += $1 } END { print n }' >$task.counted
done
end_cgroup bronze

start
sees gold silver
eventually absent test -e "$bronze" || fail "the group of a task that has ended is still there"
ours >after
grep -v bronze before | cmp - after || fail "groups are not the same: $(cat before after)"
for task in gold silver; do
	above "$(cat $task.counted)" owca_task_memory_bandwidth_bytes_total "task_id=\"/$task\"" ||
		fail "$task begins anew: counted $(cat $task.counted)"
done
stop
none_ours || fail "groups are left: $(ours)"
no_errors
umount $fs
