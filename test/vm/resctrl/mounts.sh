#!/bin/busybox sh
# Three tasks on a host where resctrl is not mounted: the agent mounts it, tells
# their occupancy and bandwidth, and undoes all of it.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

! mounted || umount $fs
for task in gold silver bronze; do spin $task; done
configure 'rdt_enabled: true' 'resctrl_mount: true'
start
sees gold silver bronze
mounted || fail "resctrl is not mounted"
[ "$(ours | wc -l)" = 3 ] || fail "not one group a task: $(ours)"
for task in gold silver bronze; do
	eventually holds "$(group $task)" $task || fail "a thread of $task is not in $(group $task)"
done
# A fork is born in the group of its parent, a process from elsewhere is moved.
spin gold
eventually holds "$(group gold)" gold || fail "a new process of gold is not in its group"
for rate in owca_task_memory_bandwidth_bytes_per_second owca_task_memory_bandwidth_local_bytes_per_second; do
	eventually above 0 "$rate" 'task_id="/gold"' || fail "no $rate"
done

$owca resctrl >shown || fail "owca resctrl: $(cat shown)"
cat shown
for task in gold silver bronze; do
	grep -q "$task" shown || fail "owca resctrl does not show $task"
done
$owca resctrl --json >shown.json || fail "owca resctrl --json"
grep -q '"' shown.json || fail "owca resctrl --json shows nothing"

stop
no_errors
! mounted || fail "what it mounted is still mounted; groups: $(ours)"

# What it has not mounted stays.
mount -t resctrl resctrl $fs
mkdir $fs/foreign $fs/mon_groups/foreign
start
sees gold
stop
none_ours || fail "groups are left: $(ours)"
mounted || fail "it unmounted what it has not mounted"
rmdir $fs/foreign $fs/mon_groups/foreign || fail "a foreign group has gone"
umount $fs
