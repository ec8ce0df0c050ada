#!/bin/busybox sh
# A host with a part of resctrl only: what there is gets told, the rest is absent and
# no error. $1 is what can be monitored: all, occupancy, none.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

mounted || mount -t resctrl resctrl $fs
for task in gold silver bronze; do spin $task; done
configure
start
eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not measure"
want=''
case $1 in
all) want=$monitored ;;
occupancy) want=owca_task_llc_occupancy_bytes ;;
esac
for metric in $want; do
	eventually above 0 "$metric" 'task_id="/gold"' || fail "no $metric"
done
[ "$want" ] || usleep 2000000
running
for metric in $monitored; do
	case " $want " in
	*" $metric "*) ;;
	*) ! value "$metric" 'task_id="/gold"' || fail "there is $metric" ;;
	esac
done
[ "$want" ] || none_ours || fail "groups, and nothing to monitor: $(ours)"
$owca resctrl || fail "owca resctrl"
stop
none_ours || fail "groups are left: $(ours)"
no_errors
