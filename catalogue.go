package owca

import (
	"os"
	"slices"
)

// pageSize converts the bytes of the catalogue to pages, which the original used.
var pageSize = float64(os.Getpagesize())

// Metrics of a task: cpu.
var (
	TaskCPUUsage = &Desc{
		Name: "owca_task_cpu_usage_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano, Original: "cpu_usage_per_task", OriginalPerUnit: 1e9,
		Help:   "CPU time the task used.",
		Source: "cpuacct.usage; v2: cpu.stat usage_usec",
	}
	TaskCPUUser = &Desc{
		Name: "owca_task_cpu_user_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "CPU time the task used in user mode.",
		Source: "cpuacct.stat user, in proportion to cpuacct.usage; v2: cpu.stat user_usec",
	}
	TaskCPUSystem = &Desc{
		Name: "owca_task_cpu_system_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "CPU time the task used in the kernel.",
		Source: "cpuacct.stat system, in proportion to cpuacct.usage; v2: cpu.stat system_usec",
	}
	TaskCPUPeriods = &Desc{
		Name: "owca_task_cpu_periods_total", Kind: Counter,
		Help:   "CPU quota periods in which the task was runnable.",
		Source: "cpu.stat nr_periods",
	}
	TaskCPUThrottledPeriods = &Desc{
		Name: "owca_task_cpu_throttled_periods_total", Kind: Counter,
		Help:   "CPU quota periods in which the task ran out of its quota.",
		Source: "cpu.stat nr_throttled",
	}
	TaskCPUThrottled = &Desc{
		Name: "owca_task_cpu_throttled_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time the task was held back by its CPU quota, summed over its run queues.",
		Source: "cpu.stat throttled_time; v2: throttled_usec",
	}
	TaskCPUBursts = &Desc{
		Name: "owca_task_cpu_bursts_total", Kind: Counter,
		Help:   "CPU quota periods in which the task used burst.",
		Source: "cpu.stat nr_bursts",
	}
	TaskCPUBurst = &Desc{
		Name: "owca_task_cpu_burst_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "CPU time used above the quota thanks to burst.",
		Source: "cpu.stat burst_time; v2: burst_usec",
	}
	TaskCPUQuota = &Desc{
		Name: "owca_task_cpu_quota_seconds", Unit: "seconds", Scale: Nano,
		Help:   "CPU time the task may use each period; +Inf = no limit. Summed over its cgroups.",
		Source: "cpu.cfs_quota_us; v2: cpu.max",
	}
	TaskCPUPeriod = &Desc{
		Name: "owca_task_cpu_period_seconds", Unit: "seconds", Scale: Nano,
		Help:   "Length of a CPU quota period; the longest of the cgroups of the task.",
		Source: "cpu.cfs_period_us; v2: cpu.max",
	}
	TaskCPULimit = &Desc{
		Name: "owca_task_cpu_limit_cores", Unit: "cores",
		Help:   "CPU quota over period; +Inf = no limit. Summed over its cgroups.",
		Source: "quota / period",
	}
	TaskCPUBurstLimit = &Desc{
		Name: "owca_task_cpu_burst_limit_seconds", Unit: "seconds", Scale: Nano,
		Help:   "CPU time the task may save up for bursts.",
		Source: "cpu.cfs_burst_us; v2: cpu.max.burst",
	}
	TaskCPUShares = &Desc{
		Name:   "owca_task_cpu_shares",
		Help:   "Relative share of CPU under contention on a v1 hierarchy, summed over the cgroups of the task; 1024 is the default of one.",
		Source: "cpu.shares (v1 only)",
	}
	TaskCPUWeight = &Desc{
		Name:   "owca_task_cpu_weight",
		Help:   "Relative weight for CPU under contention on a v2 hierarchy, summed over the cgroups of the task; 100 is the default of one.",
		Source: "cpu.weight (v2 only)",
	}
	TaskCPUIdle = &Desc{
		Name:   "owca_task_cpu_idle",
		Help:   "1 if the task runs only when nothing else wants the CPU (SCHED_IDLE).",
		Source: "cpu.idle",
	}
	TaskRunQueueWait = &Desc{
		Name: "owca_task_run_queue_wait_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time threads of the task were runnable and waited for a CPU, since the agent first saw them.",
		Source: "/proc/TID/schedstat, second field",
	}
	TaskCPUSetCPUs = &Desc{
		Name:   "owca_task_cpuset_cpus",
		Help:   "CPUs the task may run on.",
		Source: "cpuset.effective_cpus; v2: cpuset.cpus.effective",
	}
	TaskCPUSetMems = &Desc{
		Name:   "owca_task_cpuset_mems",
		Help:   "NUMA nodes the task may allocate memory on.",
		Source: "cpuset.effective_mems; v2: cpuset.mems.effective",
	}
	TaskCPUSetInfo = &Desc{
		Name: "owca_task_cpuset_info", Label: "cpuset",
		Help:   "Always 1; the list of CPUs the task may run on is in the label.",
		Source: "cpuset.effective_cpus; v2: cpuset.cpus.effective",
	}
)

// Metrics of a task: memory.
var (
	TaskMemoryUsage = &Desc{
		Name: "owca_task_memory_usage_bytes", Unit: "bytes", Original: "task_mem_usage_bytes",
		Help:   "Memory charged to the task, page cache included.",
		Source: "memory.usage_in_bytes; v2: memory.current",
	}
	TaskMemoryWorkingSet = &Desc{
		Name: "owca_task_memory_working_set_bytes", Unit: "bytes",
		Help:   "Memory usage without the inactive page cache: what would be hard to reclaim.",
		Source: "usage − memory.stat (total_)inactive_file",
	}
	TaskMemoryAnon = &Desc{
		Name: "owca_task_memory_anon_bytes", Unit: "bytes",
		Help:   "Anonymous memory of the task.",
		Source: "memory.stat total_rss; v2: anon",
	}
	TaskMemoryFile = &Desc{
		Name: "owca_task_memory_file_bytes", Unit: "bytes",
		Help:   "Page cache charged to the task.",
		Source: "memory.stat total_cache; v2: file",
	}
	TaskMemoryPeak = &Desc{
		Name: "owca_task_memory_peak_bytes", Unit: "bytes", Original: "task_mem_max_usage_bytes",
		Help:   "Highest memory usage so far.",
		Source: "memory.max_usage_in_bytes; v2: memory.peak",
	}
	TaskMemoryLow = &Desc{
		Name: "owca_task_memory_low_bytes", Unit: "bytes",
		Help:   "Memory protected from reclaim as long as there is other.",
		Source: "memory.low (v2 only)",
	}
	TaskMemoryHigh = &Desc{
		Name: "owca_task_memory_high_bytes", Unit: "bytes",
		Help:   "Memory above which the task is slowed and reclaimed from; +Inf = no limit.",
		Source: "memory.high (v2 only)",
	}
	TaskMemoryMax = &Desc{
		Name: "owca_task_memory_max_bytes", Unit: "bytes", Original: "task_mem_limit_bytes",
		Help:   "Memory limit of the task; +Inf = no limit.",
		Source: "memory.limit_in_bytes; v2: memory.max",
	}
	TaskMemorySoftLimit = &Desc{
		Name: "owca_task_memory_soft_limit_bytes", Unit: "bytes", Original: "task_mem_soft_limit_bytes",
		Help:   "Memory above which the task is reclaimed from first; +Inf = no limit.",
		Source: "memory.soft_limit_in_bytes (v1 only)",
	}
	TaskMemoryMinorFaults = &Desc{
		Name: "owca_task_memory_minor_faults_total", Kind: Counter,
		Help:   "Page faults that needed no I/O.",
		Source: "memory.stat (total_)pgfault − pgmajfault",
	}
	TaskMemoryMajorFaults = &Desc{
		Name: "owca_task_memory_major_faults_total", Kind: Counter,
		Help:   "Page faults that waited for I/O.",
		Source: "memory.stat (total_)pgmajfault",
	}
	TaskMemoryFaults = &Desc{
		Name: "owca_task_memory_faults_total", Kind: Counter, Original: "task_mem_page_faults",
		Help:   "Page faults, minor and major.",
		Source: "memory.stat (total_)pgfault",
	}
	TaskMemoryRefaults = &Desc{
		Name: "owca_task_memory_refaults_total", Kind: Counter,
		Help:   "Pages read again soon after they had been reclaimed: the task lacks memory.",
		Source: "memory.stat workingset_refault(_anon, _file)",
	}
	TaskMemoryOOMKills = &Desc{
		Name: "owca_task_memory_oom_kills_total", Kind: Counter,
		Help:   "Processes of the task that the kernel killed for lack of memory.",
		Source: "memory.oom_control oom_kill; v2: memory.events oom_kill",
	}
	TaskMemoryNUMA = &Desc{
		Name: "owca_task_memory_numa_bytes", Unit: "bytes", Label: "numa_node", Original: "task_mem_numa_pages", OriginalPerUnit: 1.0 / pageSize,
		Help:   "Memory of the task on each NUMA node.",
		Source: "memory.numa_stat",
	}
)

// Metrics of a task: io, pids, pressure.
var (
	TaskIOReadBytes = &Desc{
		Name: "owca_task_io_read_bytes_total", Kind: Counter, Unit: "bytes",
		Help:   "Bytes read from block devices.",
		Source: "blkio.throttle.io_service_bytes_recursive; v2: io.stat rbytes",
	}
	TaskIOWriteBytes = &Desc{
		Name: "owca_task_io_write_bytes_total", Kind: Counter, Unit: "bytes",
		Help:   "Bytes written to block devices.",
		Source: "blkio.throttle.io_service_bytes_recursive; v2: io.stat wbytes",
	}
	TaskIOReads = &Desc{
		Name: "owca_task_io_reads_total", Kind: Counter,
		Help:   "Read operations on block devices.",
		Source: "blkio.throttle.io_serviced_recursive; v2: io.stat rios",
	}
	TaskIOWrites = &Desc{
		Name: "owca_task_io_writes_total", Kind: Counter,
		Help:   "Write operations on block devices.",
		Source: "blkio.throttle.io_serviced_recursive; v2: io.stat wios",
	}
	TaskPIDs = &Desc{
		Name:   "owca_task_pids",
		Help:   "Processes and threads of the task.",
		Source: "pids.current",
	}
	TaskPIDsMax = &Desc{
		Name:   "owca_task_pids_max",
		Help:   "Most processes and threads the task may have; +Inf = no limit.",
		Source: "pids.max",
	}
	TaskCPUPressureSome = &Desc{
		Name: "owca_task_cpu_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which at least one thread of the task waited for a CPU.",
		Source: "cpu.pressure some total",
	}
	TaskCPUPressureFull = &Desc{
		Name: "owca_task_cpu_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which all threads of the task that had work waited for a CPU.",
		Source: "cpu.pressure full total",
	}
	TaskMemoryPressureSome = &Desc{
		Name: "owca_task_memory_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which at least one thread of the task waited for memory.",
		Source: "memory.pressure some total",
	}
	TaskMemoryPressureFull = &Desc{
		Name: "owca_task_memory_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which all threads of the task that had work waited for memory.",
		Source: "memory.pressure full total",
	}
	TaskIOPressureSome = &Desc{
		Name: "owca_task_io_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which at least one thread of the task waited for I/O.",
		Source: "io.pressure some total",
	}
	TaskIOPressureFull = &Desc{
		Name: "owca_task_io_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "Time in which all threads of the task that had work waited for I/O.",
		Source: "io.pressure full total",
	}
)

// Metrics of a task: performance counters. Events other than these have a Desc
// made for them, as internal/measure does.
var (
	TaskInstructions = &Desc{
		Name: "owca_task_instructions_total", Kind: Counter, Original: "instructions",
		Help:   "Instructions the task retired, since the agent began to count it, as are the other counters.",
		Source: "perf_event_open(2) event instructions",
	}
	TaskCycles = &Desc{
		Name: "owca_task_cycles_total", Kind: Counter, Original: "cycles",
		Help:   "CPU cycles in which the task ran.",
		Source: "perf_event_open(2) event cycles",
	}
	TaskCacheReferences = &Desc{
		Name: "owca_task_cache_references_total", Kind: Counter, Original: "cache_references",
		Help:   "Accesses to the last level of cache.",
		Source: "perf_event_open(2) event cache_references",
	}
	TaskCacheMisses = &Desc{
		Name: "owca_task_cache_misses_total", Kind: Counter, Original: "cache_misses",
		Help:   "Accesses that the last level of cache could not serve.",
		Source: "perf_event_open(2) event cache_misses",
	}
	TaskMemoryStalls = &Desc{
		Name: "owca_task_memory_stall_cycles_total", Kind: Counter, Original: "stalls_mem_load",
		Help:   "Cycles in which the task stood still for memory; the event differs between CPU models.",
		Source: "perf_event_open(2) event stalls_mem_load",
	}
	TaskPerfScalingAvg = &Desc{
		Name: "owca_task_perf_scaling_factor_avg", Original: "task_scaling_factor_avg",
		Help:   "By how much counts are extrapolated, because there are more events than counters: 1 = not at all. Mean of the events since the last tick.",
		Source: "Δ time enabled / Δ time running",
	}
	TaskPerfScalingMax = &Desc{
		Name: "owca_task_perf_scaling_factor_max", Original: "task_scaling_factor_max",
		Help:   "By how much counts are extrapolated; the event with the most.",
		Source: "Δ time enabled / Δ time running",
	}
)

// Metrics of a task: caches and memory bandwidth, by resctrl.
var (
	TaskLLCOccupancy = &Desc{
		Name: "owca_task_llc_occupancy_bytes", Unit: "bytes", Original: "llc_occupancy",
		Help:   "Last level of cache that the task occupies; summed over the caches of the host.",
		Source: "resctrl mon_data/mon_L3_*/llc_occupancy",
	}
	TaskLLCOccupancyDomain = &Desc{
		Name: "owca_task_llc_occupancy_domain_bytes", Unit: "bytes", Label: "domain",
		Help:   "Last level of cache that the task occupies, by domain: the id of the cache, or 0/1 for sub-NUMA node 1 of cache 0, which is a part of domain 0.",
		Source: "resctrl mon_data/mon_L3_*/llc_occupancy",
	}
	TaskMemoryBandwidth = &Desc{
		Name: "owca_task_memory_bandwidth_bytes_total", Kind: Counter, Unit: "bytes", Original: "memory_bandwidth",
		Help:   "Bytes between the last level of cache and memory while the task was monitored; summed over the caches of the host. Absent while it is not, as of tasks that take turns.",
		Source: "resctrl mon_data/mon_L3_*/mbm_total_bytes",
	}
	TaskMemoryBandwidthLocal = &Desc{
		Name: "owca_task_memory_bandwidth_local_bytes_total", Kind: Counter, Unit: "bytes", Original: "task_mem_bandwidth_local_bytes",
		Help:   "The part of it to and from the memory of the cache's own socket.",
		Source: "resctrl mon_data/mon_L3_*/mbm_local_bytes",
	}
	TaskMemoryBandwidthRemote = &Desc{
		Name: "owca_task_memory_bandwidth_remote_bytes_total", Kind: Counter, Unit: "bytes", Original: "task_mem_bandwidth_remote_bytes",
		Help:   "The part of it to and from the memory of other sockets.",
		Source: "total − local",
	}
	TaskMemoryBandwidthDomain = &Desc{
		Name: "owca_task_memory_bandwidth_domain_bytes_total", Kind: Counter, Unit: "bytes", Label: "domain",
		Help:   "Bytes between the last level of cache and memory, by domain.",
		Source: "resctrl mon_data/mon_L3_*/mbm_total_bytes",
	}
	TaskMemoryBandwidthLocalDomain = &Desc{
		Name: "owca_task_memory_bandwidth_local_domain_bytes_total", Kind: Counter, Unit: "bytes", Label: "domain",
		Help:   "The part of it to and from the memory of the cache's own socket, by domain.",
		Source: "resctrl mon_data/mon_L3_*/mbm_local_bytes",
	}
	TaskMemoryBandwidthRemoteDomain = &Desc{
		Name: "owca_task_memory_bandwidth_remote_domain_bytes_total", Kind: Counter, Unit: "bytes", Label: "domain",
		Help:   "The part of it to and from the memory of other sockets, by domain.",
		Source: "total − local",
	}
)

// Metrics of a task: what the agent and the orchestrator know.
var (
	TaskUp = &Desc{
		Name: "owca_task_up", Original: "task_up",
		Help:   "1 while the task is discovered and its cgroups could be read.",
		Source: "discovery",
	}
	TaskLastSeen = &Desc{
		Name: "owca_task_last_seen_timestamp_seconds", Unit: "seconds", Scale: Milli, Original: "task_last_seen",
		Help:   "When the task was last seen, Unix time.",
		Source: "discovery",
	}
	TaskCgroups = &Desc{
		Name: "owca_task_cgroups", Original: "task_subcontainers",
		Help:   "Cgroups (containers) of the task that exist.",
		Source: "discovery",
	}
	TaskRequestedCPUs = &Desc{
		Name: "owca_task_requested_cpus", Unit: "cores", Original: "task_requested_cpus",
		Help:   "CPUs requested from the orchestrator.",
		Source: "resources cpus, requests_cpu",
	}
	TaskRequestedMemory = &Desc{
		Name: "owca_task_requested_memory_bytes", Unit: "bytes", Original: "task_requested_mem_bytes",
		Help:   "Memory requested from the orchestrator.",
		Source: "resources mem, requests_memory",
	}
	TaskReadingAge = &Desc{
		Name: "owca_task_reading_age_seconds", Unit: "seconds", Scale: Milli, Label: "reading",
		Help:   "Age of the readings that are taken at a slower pace than the interval.",
		Source: "time since the last read",
	}
)

// Metrics of a task: derived from two samples.
var (
	TaskCPUUsageCores = &Desc{
		Name: "owca_task_cpu_usage_cores", Unit: "cores", Derived: true,
		Help:   "CPUs the task kept busy since the last tick.",
		Source: "Δ cpu_usage_seconds / Δt",
	}
	TaskCPUThrottledRatio = &Desc{
		Name: "owca_task_cpu_throttled_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of its quota periods in which the task was throttled since the last tick.",
		Source: "Δ cpu_throttled_periods / Δ cpu_periods",
	}
	TaskCPUPressureSomeRatio = &Desc{
		Name: "owca_task_cpu_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the task waited for a CPU; summed over its cgroups.",
		Source: "Δ cpu_pressure_some_seconds / Δt",
	}
	TaskCPUPressureFullRatio = &Desc{
		Name: "owca_task_cpu_pressure_full_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which all threads of the task that had work waited for a CPU; summed over its cgroups.",
		Source: "Δ cpu_pressure_full_seconds / Δt",
	}
	TaskMemoryPressureSomeRatio = &Desc{
		Name: "owca_task_memory_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the task waited for memory; summed over its cgroups.",
		Source: "Δ memory_pressure_some_seconds / Δt",
	}
	TaskMemoryPressureFullRatio = &Desc{
		Name: "owca_task_memory_pressure_full_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which all threads of the task that had work waited for memory; summed over its cgroups.",
		Source: "Δ memory_pressure_full_seconds / Δt",
	}
	TaskIOPressureSomeRatio = &Desc{
		Name: "owca_task_io_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the task waited for I/O; summed over its cgroups.",
		Source: "Δ io_pressure_some_seconds / Δt",
	}
	TaskIOPressureFullRatio = &Desc{
		Name: "owca_task_io_pressure_full_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which all threads of the task that had work waited for I/O; summed over its cgroups.",
		Source: "Δ io_pressure_full_seconds / Δt",
	}
	TaskRunQueueWaitRatio = &Desc{
		Name: "owca_task_run_queue_wait_ratio", Unit: "ratio", Derived: true,
		Help:   "Time threads of the task waited for a CPU, by the time passed; more than 1 when several waited.",
		Source: "Δ run_queue_wait_seconds / Δt",
	}
	TaskMemoryMinorFaultRate = &Desc{
		Name: "owca_task_memory_minor_faults_per_second", Derived: true,
		Help:   "Minor page faults a second.",
		Source: "Δ memory_minor_faults / Δt",
	}
	TaskMemoryMajorFaultRate = &Desc{
		Name: "owca_task_memory_major_faults_per_second", Derived: true,
		Help:   "Major page faults a second.",
		Source: "Δ memory_major_faults / Δt",
	}
	TaskMemoryRefaultRate = &Desc{
		Name: "owca_task_memory_refaults_per_second", Derived: true,
		Help:   "Refaults a second.",
		Source: "Δ memory_refaults / Δt",
	}
	TaskIOReadRate = &Desc{
		Name: "owca_task_io_read_bytes_per_second", Unit: "bytes", Derived: true,
		Help:   "Bytes read from block devices a second.",
		Source: "Δ io_read_bytes / Δt",
	}
	TaskIOWriteRate = &Desc{
		Name: "owca_task_io_write_bytes_per_second", Unit: "bytes", Derived: true,
		Help:   "Bytes written to block devices a second.",
		Source: "Δ io_write_bytes / Δt",
	}
	TaskInstructionsPerCycle = &Desc{
		Name: "owca_task_instructions_per_cycle", Derived: true, Original: "ipc",
		Help:   "Instructions per cycle (IPC) since the last tick.",
		Source: "Δ instructions / Δ cycles",
	}
	TaskCyclesPerInstruction = &Desc{
		Name: "owca_task_cycles_per_instruction", Derived: true,
		Help:   "Cycles per instruction (CPI) since the last tick.",
		Source: "Δ cycles / Δ instructions",
	}
	TaskInstructionRate = &Desc{
		Name: "owca_task_instructions_per_second", Derived: true, Original: "ips",
		Help:   "Instructions a second.",
		Source: "Δ instructions / Δt",
	}
	TaskCacheHitRatio = &Desc{
		Name: "owca_task_cache_hit_ratio", Unit: "ratio", Derived: true, Original: "cache_hit_ratio",
		Help:   "Share of the accesses to the last level of cache that it served.",
		Source: "1 − Δ cache_misses / Δ cache_references",
	}
	TaskCacheMissesPerKiloInstruction = &Desc{
		Name: "owca_task_cache_misses_per_kilo_instruction", Derived: true, Original: "cache_misses_per_kilo_instructions",
		Help:   "Misses of the last level of cache per 1000 instructions.",
		Source: "1000 · Δ cache_misses / Δ instructions",
	}
	TaskMemoryStallsPerKiloInstruction = &Desc{
		Name: "owca_task_memory_stall_cycles_per_kilo_instruction", Derived: true,
		Help:   "Cycles stalled for memory per 1000 instructions.",
		Source: "1000 · Δ memory_stall_cycles / Δ instructions",
	}
	TaskMemoryBandwidthRate = &Desc{
		Name: "owca_task_memory_bandwidth_bytes_per_second", Unit: "bytes", Derived: true,
		Help:   "Bytes between the last level of cache and memory a second.",
		Source: "Δ memory_bandwidth_bytes / Δt",
	}
	TaskMemoryBandwidthLocalRate = &Desc{
		Name: "owca_task_memory_bandwidth_local_bytes_per_second", Unit: "bytes", Derived: true,
		Help:   "The part of it to and from the memory of the cache's own socket.",
		Source: "Δ memory_bandwidth_local_bytes / Δt",
	}
	TaskMemoryBandwidthRemoteRate = &Desc{
		Name: "owca_task_memory_bandwidth_remote_bytes_per_second", Unit: "bytes", Derived: true,
		Help:   "The part of it to and from the memory of other sockets.",
		Source: "Δ memory_bandwidth_remote_bytes / Δt",
	}
)

// Metrics of the platform.
var (
	PlatformInfo = &Desc{
		Name:   "owca_platform_info",
		Help:   "Always 1; what the host is, in labels: kernel, cpu_model, sockets, cores, cpus, numa_nodes.",
		Source: "/proc, /sys",
	}
	PlatformSockets = &Desc{
		Name:   "owca_platform_sockets",
		Help:   "CPU sockets with online CPUs.",
		Source: "/sys/devices/system/cpu/cpu*/topology",
	}
	PlatformCores = &Desc{
		Name:   "owca_platform_cores",
		Help:   "Physical cores with online CPUs.",
		Source: "/sys/devices/system/cpu/cpu*/topology",
	}
	PlatformCPUs = &Desc{
		Name:   "owca_platform_cpus",
		Help:   "Online CPUs (hardware threads).",
		Source: "/sys/devices/system/cpu/online",
	}
	PlatformNUMANodes = &Desc{
		Name:   "owca_platform_numa_nodes",
		Help:   "Online NUMA nodes.",
		Source: "/sys/devices/system/node/online",
	}
	PlatformCache = &Desc{
		Name: "owca_platform_cache_bytes", Unit: "bytes", Label: "cache",
		Help:   "Size of one cache of each level and type, as cpu 0 sees it.",
		Source: "/sys/devices/system/cpu/cpu0/cache",
	}
	PlatformCPUUsage = &Desc{
		Name: "owca_platform_cpu_usage_seconds_total", Kind: Counter, Unit: "seconds", Scale: Centi, Label: "cpu", Original: "cpu_usage_per_cpu", OriginalPerUnit: 100,
		Help:   "Time each CPU was not idle: user, nice, system, irq, softirq, steal.",
		Source: "/proc/stat",
	}
	PlatformCPUFrequency = &Desc{
		Name: "owca_platform_cpu_frequency_hertz", Unit: "hertz", Label: "cpu",
		Help:   "Frequency of each CPU as the kernel last saw or set it.",
		Source: "cpufreq/scaling_cur_freq, else /proc/cpuinfo \"cpu MHz\"",
	}
	PlatformMemoryTotal = &Desc{
		Name: "owca_platform_memory_total_bytes", Unit: "bytes",
		Help:   "Memory of the host.",
		Source: "/proc/meminfo MemTotal",
	}
	PlatformMemoryAvailable = &Desc{
		Name: "owca_platform_memory_available_bytes", Unit: "bytes",
		Help:   "Memory that could be given to new work without swapping.",
		Source: "/proc/meminfo MemAvailable",
	}
	PlatformMemoryUsage = &Desc{
		Name: "owca_platform_memory_usage_bytes", Unit: "bytes", Original: "memory_usage",
		Help:   "Memory in use.",
		Source: "/proc/meminfo MemTotal − MemFree − Buffers − Cached − Slab",
	}
	PlatformMemoryNUMAFree = &Desc{
		Name: "owca_platform_memory_numa_free_bytes", Unit: "bytes", Label: "numa_node", Original: "platform_mem_numa_free_bytes",
		Help:   "Free memory of each NUMA node.",
		Source: "/sys/devices/system/node/node*/meminfo MemFree",
	}
	PlatformMemoryNUMAUsed = &Desc{
		Name: "owca_platform_memory_numa_used_bytes", Unit: "bytes", Label: "numa_node", Original: "platform_mem_numa_used_bytes",
		Help:   "Used memory of each NUMA node.",
		Source: "/sys/devices/system/node/node*/meminfo MemUsed",
	}
	PlatformDRAMRead = &Desc{
		Name: "owca_platform_dram_read_bytes_total", Kind: Counter, Unit: "bytes", Label: "socket", Original: "platform_cas_count_reads", OriginalPerUnit: 1.0 / 64,
		Help:   "Bytes that each socket read from its DRAM, since the agent counts.",
		Source: "uncore_imc cas_count_read, amd_umc umc_cas_cmd.rd: CAS commands × 64",
	}
	PlatformDRAMWrite = &Desc{
		Name: "owca_platform_dram_write_bytes_total", Kind: Counter, Unit: "bytes", Label: "socket", Original: "platform_cas_count_writes", OriginalPerUnit: 1.0 / 64,
		Help:   "Bytes that each socket wrote to its DRAM, since the agent counts.",
		Source: "uncore_imc cas_count_write, amd_umc umc_cas_cmd.wr: CAS commands × 64",
	}
	PlatformCPUPressureSome = &Desc{
		Name: "owca_platform_cpu_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which at least one thread of the host waited for a CPU.",
		Source: "/proc/pressure/cpu some total",
	}
	PlatformCPUPressureFull = &Desc{
		Name: "owca_platform_cpu_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which all threads of the host that had work waited for a CPU.",
		Source: "/proc/pressure/cpu full total",
	}
	PlatformMemoryPressureSome = &Desc{
		Name: "owca_platform_memory_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which at least one thread of the host waited for memory.",
		Source: "/proc/pressure/memory some total",
	}
	PlatformMemoryPressureFull = &Desc{
		Name: "owca_platform_memory_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which all threads of the host that had work waited for memory.",
		Source: "/proc/pressure/memory full total",
	}
	PlatformIOPressureSome = &Desc{
		Name: "owca_platform_io_pressure_some_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which at least one thread of the host waited for I/O.",
		Source: "/proc/pressure/io some total",
	}
	PlatformIOPressureFull = &Desc{
		Name: "owca_platform_io_pressure_full_seconds_total", Kind: Counter, Unit: "seconds", Scale: Micro,
		Help:   "Time in which all threads of the host that had work waited for I/O.",
		Source: "/proc/pressure/io full total",
	}
	PlatformLoad1 = &Desc{
		Name:   "owca_platform_load1",
		Help:   "Load average over 1 minute.",
		Source: "/proc/loadavg",
	}
	PlatformLoad5 = &Desc{
		Name:   "owca_platform_load5",
		Help:   "Load average over 5 minutes.",
		Source: "/proc/loadavg",
	}
	PlatformLoad15 = &Desc{
		Name:   "owca_platform_load15",
		Help:   "Load average over 15 minutes.",
		Source: "/proc/loadavg",
	}
	PlatformVMStat = &Desc{
		Name: "owca_platform_vmstat_total", Kind: Counter, Label: "key", Original: "platform_vmstat",
		Help:   "Selected event counters of the virtual memory system.",
		Source: "/proc/vmstat",
	}
	PlatformReadingAge = &Desc{
		Name: "owca_platform_reading_age_seconds", Unit: "seconds", Scale: Milli, Label: "reading",
		Help:   "Age of the readings that are taken at a slower pace than the interval.",
		Source: "time since the last read",
	}
	PlatformCPUUsageCores = &Desc{
		Name: "owca_platform_cpu_usage_cores", Unit: "cores", Derived: true,
		Help:   "CPUs of the host kept busy since the last tick.",
		Source: "Σ Δ cpu_usage_seconds / Δt",
	}
	PlatformDRAMReadRate = &Desc{
		Name: "owca_platform_dram_read_bytes_per_second", Unit: "bytes", Label: "socket", Derived: true, Original: "platform_dram_reads_bytes_per_second",
		Help:   "Bytes that each socket read from its DRAM a second.",
		Source: "Δ dram_read_bytes / Δt",
	}
	PlatformDRAMWriteRate = &Desc{
		Name: "owca_platform_dram_write_bytes_per_second", Unit: "bytes", Label: "socket", Derived: true, Original: "platform_dram_writes_bytes_per_second",
		Help:   "Bytes that each socket wrote to its DRAM a second.",
		Source: "Δ dram_write_bytes / Δt",
	}
	PlatformDRAMRate = &Desc{
		Name: "owca_platform_dram_bytes_per_second", Unit: "bytes", Label: "socket", Derived: true, Original: "platform_dram_total_bytes_per_second",
		Help:   "Bytes that went between each socket and its DRAM a second.",
		Source: "dram_read_bytes_per_second + dram_write_bytes_per_second",
	}
	PlatformCPUPressureSomeRatio = &Desc{
		Name: "owca_platform_cpu_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the host waited for a CPU.",
		Source: "Δ cpu_pressure_some_seconds / Δt",
	}
	PlatformMemoryPressureSomeRatio = &Desc{
		Name: "owca_platform_memory_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the host waited for memory.",
		Source: "Δ memory_pressure_some_seconds / Δt",
	}
	PlatformIOPressureSomeRatio = &Desc{
		Name: "owca_platform_io_pressure_some_ratio", Unit: "ratio", Derived: true,
		Help:   "Share of the time in which at least one thread of the host waited for I/O.",
		Source: "Δ io_pressure_some_seconds / Δt",
	}
)

// Metrics of what detectors find and what is allocated to tasks. Those with a task have
// the labels that docs/metrics.md names for them.
var (
	AnomalyContention = &Desc{
		Name: "owca_anomaly", Original: "anomaly",
		Help:   "Always 1; a task suffers contention on a resource. One for each suspect: labels contended_task_id, contending_task_id, contending_workload_instance, resource, uuid, type, and those of the task that suffers.",
		Source: "detectors, allocators",
	}
	AnomaliesFound = &Desc{
		Name: "owca_anomalies_total", Kind: Counter, Original: "anomaly_count",
		Help:   "Anomalies found since the start.",
		Source: "detectors, allocators",
	}
	AnomalyLastOccurrence = &Desc{
		Name: "owca_anomaly_last_occurrence_timestamp_seconds", Unit: "seconds", Scale: Milli, Original: "anomaly_last_occurrence",
		Help:   "When an anomaly was last found, Unix time. Absent before the first.",
		Source: "detectors, allocators",
	}
	AllocationCPUQuota = &Desc{
		Name: "owca_allocation_cpu_quota_ratio", Unit: "ratio", Original: "allocation_cpu_quota",
		Help:   "CPU time that owca lets a cgroup use, as a part of the whole host; 1 = no limit. Labels of this and all others: allocation_type, container_name (the cgroup), task.",
		Source: "leases",
	}
	AllocationCPUShares = &Desc{
		Name: "owca_allocation_cpu_shares", Original: "allocation_cpu_shares",
		Help:   "Weight for CPU that owca gave a cgroup, in units of cpu_shares_unit.",
		Source: "leases",
	}
	AllocationCPUBurst = &Desc{
		Name: "owca_allocation_cpu_burst_ratio", Unit: "ratio",
		Help:   "CPU time beyond its quota that owca lets a cgroup save up, as a part of the whole host in one period.",
		Source: "leases",
	}
	AllocationCPUIdle = &Desc{
		Name:   "owca_allocation_cpu_idle",
		Help:   "1 if owca made a cgroup run only when nothing else wants the CPU, 0 if it made that end.",
		Source: "leases",
	}
	AllocationCPUSetCPUs = &Desc{
		Name: "owca_allocation_cpuset_cpus", Label: "cpuset",
		Help:   "Number of CPUs that owca lets a cgroup run on; the list is in the label.",
		Source: "leases",
	}
	AllocationCPUSetMems = &Desc{
		Name: "owca_allocation_cpuset_mems", Label: "cpuset",
		Help:   "Number of NUMA nodes that owca lets a cgroup allocate memory on; the list is in the label.",
		Source: "leases",
	}
	AllocationMemoryHigh = &Desc{
		Name: "owca_allocation_memory_high_bytes", Unit: "bytes",
		Help:   "Memory above which owca has a cgroup throttled; +Inf = no limit.",
		Source: "leases",
	}
	AllocationMemoryLow = &Desc{
		Name: "owca_allocation_memory_low_bytes", Unit: "bytes",
		Help:   "Memory of a cgroup that owca protects from reclaim; +Inf = all of it.",
		Source: "leases",
	}
	AllocationIOWeight = &Desc{
		Name:   "owca_allocation_io_weight",
		Help:   "Weight for I/O that owca gave a cgroup; 100 is the default of one.",
		Source: "leases",
	}
	AllocationIOMaxBytes = &Desc{
		Name: "owca_allocation_io_max_bytes_per_second", Unit: "bytes", Label: "direction",
		Help:   "What owca lets a cgroup read from or write to a device; +Inf = no limit. The device is in the label device.",
		Source: "leases",
	}
	AllocationIOMaxOperations = &Desc{
		Name: "owca_allocation_io_max_operations_per_second", Label: "direction",
		Help:   "How often owca lets a cgroup read from or write to a device; +Inf = no limit. The device is in the label device.",
		Source: "leases",
	}
	AllocationL3Ways = &Desc{
		Name: "owca_allocation_rdt_l3_cache_ways", Label: "domain_id", Original: "allocation_rdt_l3_cache_ways",
		Help:   "Ways of each L3 cache that a task may fill by its resctrl group, which is in the label group_name. With code and data apart (CDP) each has its own, with the label resource.",
		Source: "resctrl schemata",
	}
	AllocationL3Mask = &Desc{
		Name: "owca_allocation_rdt_l3_mask", Label: "domain_id", Original: "allocation_rdt_l3_mask",
		Help:   "The same as a mask of ways, which is a decimal number here.",
		Source: "resctrl schemata",
	}
	AllocationMB = &Desc{
		Name: "owca_allocation_rdt_memory_bandwidth", Label: "domain_id", Original: "allocation_rdt_mb",
		Help:   "Memory bandwidth of each domain that a task may use by its resctrl group, in the unit of the schemata: percent, or MB/s with mba_MBps.",
		Source: "resctrl schemata",
	}
	AllocationsDecided = &Desc{
		Name: "owca_allocations_total", Kind: Counter, Original: "allocations_count",
		Help:   "Allocations that allocators decided on and that were valid, of each kind for each task.",
		Source: "allocators",
	}
	AllocationErrors = &Desc{
		Name: "owca_allocation_errors_total", Kind: Counter, Original: "allocations_errors",
		Help:   "Decisions that were dropped because an allocator failed, was late, or wanted something invalid.",
		Source: "allocators",
	}
	AllocationDuration = &Desc{
		Name: "owca_allocation_duration_seconds", Unit: "seconds", Scale: Nano, Original: "allocation_duration",
		Help:   "Time that deciding took in the last tick.",
		Source: "the agent",
	}
)

// Metrics of the agent itself.
var (
	AgentUp = &Desc{
		Name: "owca_up", Original: "owca_up",
		Help:   "1 while the agent runs.",
		Source: "the agent",
	}
	AgentInfo = &Desc{
		Name:   "owca_build_info",
		Help:   "Always 1; version, revision and Go version are in the labels.",
		Source: "build info of the binary",
	}
	AgentTasks = &Desc{
		Name: "owca_tasks", Original: "owca_tasks",
		Help:   "Tasks discovered.",
		Source: "discovery",
	}
	AgentTicks = &Desc{
		Name: "owca_ticks_total", Kind: Counter,
		Help:   "Ticks run.",
		Source: "the agent",
	}
	AgentOverruns = &Desc{
		Name: "owca_tick_overruns_total", Kind: Counter,
		Help:   "Points of the interval grid that passed while a tick still ran.",
		Source: "the agent",
	}
	AgentDuration = &Desc{
		Name: "owca_tick_duration_seconds", Unit: "seconds", Scale: Nano, Label: "stage", Original: "owca_duration_seconds",
		Help:   "Time the last tick took, by stage.",
		Source: "the agent",
	}
	AgentErrors = &Desc{
		Name: "owca_errors_total", Kind: Counter, Label: "stage",
		Help:   "Errors, by the stage they occurred in. The log says what, once for each change.",
		Source: "the agent",
	}
	AgentCgroupsVanished = &Desc{
		Name: "owca_cgroups_vanished_total", Kind: Counter,
		Help:   "Cgroups that were gone when they were to be read. Normal on a busy host.",
		Source: "the agent",
	}
	AgentPerfBackend = &Desc{
		Name: "owca_perf_backend", Label: "backend",
		Help:   "Always 1; how performance counters are kept now, in the label: cgroup or bpf. Absent if there are none.",
		Source: "the agent",
	}
	AgentPerfCgroups = &Desc{
		Name:   "owca_perf_cgroups",
		Help:   "Cgroups whose performance events are counted.",
		Source: "the agent",
	}
	AgentPerfFiles = &Desc{
		Name:   "owca_perf_open_files",
		Help:   "Open file descriptors that counting performance events takes.",
		Source: "the agent",
	}
	AgentResctrlTasks = &Desc{
		Name: "owca_resctrl_tasks", Label: "state",
		Help:   "Tasks by what resctrl tells of them: monitored; waiting for a free monitoring id (RMID); foreign: another program has put threads of it into a group of its own; overlap: its cgroup is that of another task, or contains it; error. Absent while resctrl monitors nothing.",
		Source: "the agent",
	}
	AgentResctrlRMIDs = &Desc{
		Name:   "owca_resctrl_rmids",
		Help:   "Groups that the host can monitor, those of other programs included.",
		Source: "resctrl info/*_MON/num_rmids",
	}
	AgentResctrlRefused = &Desc{
		Name: "owca_resctrl_rmids_refused_total", Kind: Counter,
		Help:   "Times that no monitoring id was free for another task: all were in use, by groups or by the cache lines of removed ones, or were left for control groups.",
		Source: "mkdir(2): ENOSPC, EBUSY",
	}
	AgentResctrlMoved = &Desc{
		Name: "owca_resctrl_threads_moved_total", Kind: Counter,
		Help:   "Threads moved into the monitoring groups of their tasks. Those that are born there need not be.",
		Source: "the agent",
	}
	AgentResctrlErrors = &Desc{
		Name: "owca_resctrl_errors_total", Kind: Counter,
		Help:   "Operations on resctrl that failed, without those that found no free monitoring id.",
		Source: "the agent",
	}
	AgentComponentDuration = &Desc{
		Name: "owca_component_duration_seconds", Unit: "seconds", Scale: Nano, Label: "component",
		Help:   "Time the last call of each detector and allocator took that returned.",
		Source: "the agent",
	}
	AgentComponentErrors = &Desc{
		Name: "owca_component_errors_total", Kind: Counter, Label: "component",
		Help:   "Ticks in which a detector or allocator failed, panicked, or returned something invalid.",
		Source: "the agent",
	}
	AgentComponentOverruns = &Desc{
		Name: "owca_component_overruns_total", Kind: Counter, Label: "component",
		Help:   "Ticks that had no result of a detector or allocator because it ran past the end of its tick.",
		Source: "the agent",
	}
	AgentComponentRejected = &Desc{
		Name: "owca_component_rejected_total", Kind: Counter, Label: "component",
		Help:   "Anomalies and metrics of a detector or allocator that were dropped: invalid, or too many.",
		Source: "the agent",
	}
	AgentLeases = &Desc{
		Name:   "owca_agent_leases",
		Help:   "Changes of the host that owca made and will undo. Absent, like the following, without an allocator.",
		Source: "the agent",
	}
	AgentLeaseEnds = &Desc{
		Name: "owca_agent_lease_ends_total", Kind: Counter, Label: "how",
		Help:   "Leases that ended, by how: released by the allocator; restored; foreign: somebody else changed the value, which stays; gone: the cgroup or group was removed.",
		Source: "the agent",
	}
	AgentChanges = &Desc{
		Name: "owca_agent_changes_total", Kind: Counter,
		Help:   "Changes made to the host.",
		Source: "the agent",
	}
	AgentChangesFailed = &Desc{
		Name: "owca_agent_changes_failed_total", Kind: Counter,
		Help:   "Changes that the kernel refused, each try.",
		Source: "the agent",
	}
	AgentAllocationsRefused = &Desc{
		Name: "owca_agent_allocations_refused_total", Kind: Counter,
		Help:   "Allocations that cannot be made on this host: once for each reason that follows another.",
		Source: "the agent",
	}
	AgentJournalErrors = &Desc{
		Name: "owca_agent_journal_errors_total", Kind: Counter,
		Help:   "Times that the journal of leases could not be written. Nothing is changed then.",
		Source: "the agent",
	}
	AgentGuardianUp = &Desc{
		Name:   "owca_agent_guardian_up",
		Help:   "1 if the guardian process runs, which restores when the agent is killed; 0 if there is none.",
		Source: "the agent",
	}
	AgentPlannedChanges = &Desc{
		Name:   "owca_agent_planned_changes",
		Help:   "Changes that would have been made in the last tick. Only with dry_run.",
		Source: "the agent",
	}
	AgentStorageDropped = &Desc{
		Name: "owca_storage_dropped_metrics_total", Kind: Counter, Label: "storage",
		Help:   "Metrics not stored because the storage was still busy with earlier ones.",
		Source: "the agent",
	}
	AgentStorageErrors = &Desc{
		Name: "owca_storage_errors_total", Kind: Counter, Label: "storage",
		Help:   "Ticks that a storage failed to store.",
		Source: "the agent",
	}
	AgentCPU = &Desc{
		Name: "owca_process_cpu_seconds_total", Kind: Counter, Unit: "seconds", Scale: Nano,
		Help:   "CPU time the agent used, user and system.",
		Source: "getrusage(2)",
	}
	AgentMemory = &Desc{
		Name: "owca_process_resident_memory_bytes", Unit: "bytes", Original: "owca_memory_usage_bytes",
		Help:   "Resident memory of the agent.",
		Source: "/proc/self/statm",
	}
	AgentFiles = &Desc{
		Name:   "owca_process_open_files",
		Help:   "Open file descriptors of the agent.",
		Source: "/proc/self/fd",
	}
	AgentFilesMax = &Desc{
		Name:   "owca_process_max_files",
		Help:   "Most file descriptors the agent may open.",
		Source: "getrlimit(2) RLIMIT_NOFILE",
	}
	AgentGoroutines = &Desc{
		Name:   "owca_goroutines",
		Help:   "Goroutines of the agent.",
		Source: "Go runtime",
	}
	AgentReloads = &Desc{
		Name: "owca_config_reloads_total", Kind: Counter, Label: "result",
		Help:   "Times the configuration was loaded again, by result.",
		Source: "the agent",
	}
	AgentReloadOK = &Desc{
		Name:   "owca_config_last_reload_successful",
		Help:   "1 if the newest version of the configuration is in force, 0 if it was rejected.",
		Source: "the agent",
	}
)

var catalogue = []*Desc{
	TaskCPUUsage,
	TaskCPUUser,
	TaskCPUSystem,
	TaskCPUPeriods,
	TaskCPUThrottledPeriods,
	TaskCPUThrottled,
	TaskCPUBursts,
	TaskCPUBurst,
	TaskCPUQuota,
	TaskCPUPeriod,
	TaskCPULimit,
	TaskCPUBurstLimit,
	TaskCPUShares,
	TaskCPUWeight,
	TaskCPUIdle,
	TaskRunQueueWait,
	TaskCPUSetCPUs,
	TaskCPUSetMems,
	TaskCPUSetInfo,
	TaskMemoryUsage,
	TaskMemoryWorkingSet,
	TaskMemoryAnon,
	TaskMemoryFile,
	TaskMemoryPeak,
	TaskMemoryLow,
	TaskMemoryHigh,
	TaskMemoryMax,
	TaskMemorySoftLimit,
	TaskMemoryMinorFaults,
	TaskMemoryMajorFaults,
	TaskMemoryFaults,
	TaskMemoryRefaults,
	TaskMemoryOOMKills,
	TaskMemoryNUMA,
	TaskIOReadBytes,
	TaskIOWriteBytes,
	TaskIOReads,
	TaskIOWrites,
	TaskPIDs,
	TaskPIDsMax,
	TaskCPUPressureSome,
	TaskCPUPressureFull,
	TaskMemoryPressureSome,
	TaskMemoryPressureFull,
	TaskIOPressureSome,
	TaskIOPressureFull,
	TaskInstructions,
	TaskCycles,
	TaskCacheReferences,
	TaskCacheMisses,
	TaskMemoryStalls,
	TaskPerfScalingAvg,
	TaskPerfScalingMax,
	TaskLLCOccupancy,
	TaskLLCOccupancyDomain,
	TaskMemoryBandwidth,
	TaskMemoryBandwidthLocal,
	TaskMemoryBandwidthRemote,
	TaskMemoryBandwidthDomain,
	TaskMemoryBandwidthLocalDomain,
	TaskMemoryBandwidthRemoteDomain,
	TaskUp,
	TaskLastSeen,
	TaskCgroups,
	TaskRequestedCPUs,
	TaskRequestedMemory,
	TaskReadingAge,
	TaskCPUUsageCores,
	TaskCPUThrottledRatio,
	TaskCPUPressureSomeRatio,
	TaskCPUPressureFullRatio,
	TaskMemoryPressureSomeRatio,
	TaskMemoryPressureFullRatio,
	TaskIOPressureSomeRatio,
	TaskIOPressureFullRatio,
	TaskRunQueueWaitRatio,
	TaskMemoryMinorFaultRate,
	TaskMemoryMajorFaultRate,
	TaskMemoryRefaultRate,
	TaskIOReadRate,
	TaskIOWriteRate,
	TaskInstructionsPerCycle,
	TaskCyclesPerInstruction,
	TaskInstructionRate,
	TaskCacheHitRatio,
	TaskCacheMissesPerKiloInstruction,
	TaskMemoryStallsPerKiloInstruction,
	TaskMemoryBandwidthRate,
	TaskMemoryBandwidthLocalRate,
	TaskMemoryBandwidthRemoteRate,
	PlatformInfo,
	PlatformSockets,
	PlatformCores,
	PlatformCPUs,
	PlatformNUMANodes,
	PlatformCache,
	PlatformCPUUsage,
	PlatformCPUFrequency,
	PlatformMemoryTotal,
	PlatformMemoryAvailable,
	PlatformMemoryUsage,
	PlatformMemoryNUMAFree,
	PlatformMemoryNUMAUsed,
	PlatformDRAMRead,
	PlatformDRAMWrite,
	PlatformCPUPressureSome,
	PlatformCPUPressureFull,
	PlatformMemoryPressureSome,
	PlatformMemoryPressureFull,
	PlatformIOPressureSome,
	PlatformIOPressureFull,
	PlatformLoad1,
	PlatformLoad5,
	PlatformLoad15,
	PlatformVMStat,
	PlatformReadingAge,
	PlatformCPUUsageCores,
	PlatformDRAMReadRate,
	PlatformDRAMWriteRate,
	PlatformDRAMRate,
	PlatformCPUPressureSomeRatio,
	PlatformMemoryPressureSomeRatio,
	PlatformIOPressureSomeRatio,
	AnomalyContention,
	AnomaliesFound,
	AnomalyLastOccurrence,
	AllocationCPUQuota,
	AllocationCPUShares,
	AllocationCPUBurst,
	AllocationCPUIdle,
	AllocationCPUSetCPUs,
	AllocationCPUSetMems,
	AllocationMemoryHigh,
	AllocationMemoryLow,
	AllocationIOWeight,
	AllocationIOMaxBytes,
	AllocationIOMaxOperations,
	AllocationL3Ways,
	AllocationL3Mask,
	AllocationMB,
	AllocationsDecided,
	AllocationErrors,
	AllocationDuration,
	AgentUp,
	AgentInfo,
	AgentTasks,
	AgentTicks,
	AgentOverruns,
	AgentDuration,
	AgentErrors,
	AgentCgroupsVanished,
	AgentPerfBackend,
	AgentPerfCgroups,
	AgentPerfFiles,
	AgentResctrlTasks,
	AgentResctrlRMIDs,
	AgentResctrlRefused,
	AgentResctrlMoved,
	AgentResctrlErrors,
	AgentComponentDuration,
	AgentComponentErrors,
	AgentComponentOverruns,
	AgentComponentRejected,
	AgentLeases,
	AgentLeaseEnds,
	AgentChanges,
	AgentChangesFailed,
	AgentAllocationsRefused,
	AgentJournalErrors,
	AgentGuardianUp,
	AgentPlannedChanges,
	AgentStorageDropped,
	AgentStorageErrors,
	AgentCPU,
	AgentMemory,
	AgentFiles,
	AgentFilesMax,
	AgentGoroutines,
	AgentReloads,
	AgentReloadOK,
}

// Catalogue returns every metric the agent itself produces, in the order of the
// documentation.
func Catalogue() []*Desc { return slices.Clone(catalogue) }
