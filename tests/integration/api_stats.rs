//! Statistics: every field that runc's shim fills, ours fills, and with the kernel's own numbers.

use crate::needs;
use crate::needs_containers;
use crate::support::leak;
use crate::support::shim::{Host, Shim};
use crate::support::subject::{Subject, cgroup_v2, ours};
use crate::support::{SOON, eventually};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::Message;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

/// Names of all fields, with the messages they lie in, that one container's statistics have.
fn fields(subject: Subject) -> BTreeSet<String> {
    let host = Host::of(subject);
    let mut bundle = host.bundle("a", "head -c 1000000 /bin/busybox >/tmp/x; cat /tmp/x >/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000");
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.set("/linux/resources/pids", json!({"limit": 50}));
    bundle.set("/linux/resources/cpu", json!({"quota": 20_000, "period": 50_000}));
    let shim = host.start(bundle);
    shim.run();
    // Until the numbers that start at nothing are there.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let stats = shim.stats().expect("Stats");
    let text = match cgroup_v2() {
        true => protobuf::text_format::print_to_string_pretty(
            &v2::Metrics::parse_from_bytes(&stats.value).expect("Metrics"),
        ),
        false => protobuf::text_format::print_to_string_pretty(
            &v1::Metrics::parse_from_bytes(&stats.value).expect("Metrics"),
        ),
    };
    names(&text)
}

/// The text format has a line for every field, and braces around messages.
fn names(text: &str) -> BTreeSet<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(message) = line.strip_suffix(" {") {
            path.push(message);
        } else if line == "}" {
            path.pop();
        } else if let Some((name, _)) = line.split_once(':') {
            names.insert([&path[..], &[name]].concat().join("."));
        }
    }
    names
}

#[test]
fn every_statistic_that_runc_fills_is_filled() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    // On which of its lists the kernel has a page is its own affair.
    let lists = |name: String| name.replace("inactive_", "active_");
    let [ours, runc] =
        [Subject::Ours, Subject::Runc].map(|subject| fields(subject).into_iter().map(lists).collect());
    let (ours, runc): (BTreeSet<String>, BTreeSet<String>) = (ours, runc);
    // What comes and goes with the moment, not with the shim. KERNEL: time in the kernel is counted in ticks, and the
    // stack of a process that is born in its cgroup is its parent's account.
    let momentary = |name: &str| {
        let parts = [
            "throttl",
            "psi",
            "fault",
            "workingset",
            "activate",
            "scan",
            "steal",
            "writeback",
            "dirty",
            "file",
        ];
        name.starts_with("blkio.")
            || parts.iter().any(|part| name.contains(part))
            || [
                "cpu.usage.kernel",
                "cpu.usage.user",
                "cpu.system_usec",
                "cpu.user_usec",
                "memory.kernel_stack",
            ]
            .contains(&name)
    };
    let missing: Vec<_> = runc.difference(&ours).filter(|name| !momentary(name)).collect();
    assert!(missing.is_empty(), "runc fills these: {missing:?}\nours has: {ours:?}");
    assert!(ours.len() > 20, "{ours:?}");
}

/// A number of the answer, beside the file and the key that the kernel has it under: `FILE`, `FILE key` or `FILE key+key`.
type Row = (String, u64);

fn rows<const N: usize>(file: &str, values: [(&str, u64); N]) -> Vec<Row> {
    values.map(|(key, value)| (format!("{file} {key}").trim_end().to_owned(), value)).to_vec()
}

/// What `file` of the container's cgroup says, 0 where there is none: on v1 in the hierarchy that its name begins with.
fn kernel(cgroup: &str, row: &str) -> u64 {
    let (file, keys) = row.split_once(' ').unwrap_or((row, ""));
    let hierarchy = format!("/sys/fs/cgroup/{}/", file.split('.').next().expect("a name"));
    let mut folders = leak::cgroups(cgroup);
    folders.retain(|folder| cgroup_v2() || folder.starts_with(&hierarchy));
    let text =
        folders.first().and_then(|folder| fs::read_to_string(folder.join(file)).ok()).unwrap_or_default();
    let number = |text: &str| match text.trim() {
        "max" => u64::MAX,
        text => text
            .parse::<f64>()
            .map_or(0, |n| if text.contains('.') { (n * 100.0) as u64 } else { text.parse().unwrap_or(0) }),
    };
    match file {
        _ if keys.is_empty() => number(&text),
        "cpuacct.usage_percpu" => {
            number(text.split_whitespace().nth(keys.parse().expect("an index")).unwrap_or_default())
        }
        // "8:0 Read 1", and "8:0 rbytes=1 wbytes=2", "some avg10=0.00 total=3".
        _ => {
            keys.split('+').map(|key| text.lines().find_map(|line| after(line, key)).map_or(0, number)).sum()
        }
    }
}

/// The value behind the words of `key` in a line of words and of pairs.
fn after<'t>(line: &'t str, key: &str) -> Option<&'t str> {
    let (first, last) = key.rsplit_once(' ').unwrap_or(("", key));
    let rest = line.strip_prefix(first)?.trim_start();
    let pair = |word: &'t str| word.strip_prefix(last)?.strip_prefix('=');
    rest.split(' ').find_map(pair).or_else(|| rest.strip_prefix(last)?.strip_prefix(' '))
}

fn v1_memory(m: &v1::MemoryStat) -> Vec<Row> {
    let mut all = rows(
        "memory.stat",
        [
            ("cache", m.cache),
            ("rss", m.rss),
            ("rss_huge", m.rss_huge),
            ("mapped_file", m.mapped_file),
            ("dirty", m.dirty),
            ("writeback", m.writeback),
            ("pgpgin", m.pg_pg_in),
            ("pgpgout", m.pg_pg_out),
            ("pgfault", m.pg_fault),
            ("pgmajfault", m.pg_maj_fault),
            ("inactive_anon", m.inactive_anon),
            ("active_anon", m.active_anon),
            ("inactive_file", m.inactive_file),
            ("active_file", m.active_file),
            ("unevictable", m.unevictable),
            ("hierarchical_memory_limit", m.hierarchical_memory_limit),
            ("hierarchical_memsw_limit", m.hierarchical_swap_limit),
            ("total_cache", m.total_cache),
            ("total_rss", m.total_rss),
            ("total_rss_huge", m.total_rss_huge),
            ("total_mapped_file", m.total_mapped_file),
            ("total_dirty", m.total_dirty),
            ("total_writeback", m.total_writeback),
            ("total_pgpgin", m.total_pg_pg_in),
            ("total_pgpgout", m.total_pg_pg_out),
            ("total_pgfault", m.total_pg_fault),
            ("total_pgmajfault", m.total_pg_maj_fault),
            ("total_inactive_anon", m.total_inactive_anon),
            ("total_active_anon", m.total_active_anon),
            ("total_inactive_file", m.total_inactive_file),
            ("total_active_file", m.total_active_file),
            ("total_unevictable", m.total_unevictable),
        ],
    );
    for (prefix, entry) in [
        ("memory", &m.usage),
        ("memory.memsw", &m.swap),
        ("memory.kmem", &m.kernel),
        ("memory.kmem.tcp", &m.kernel_tcp),
    ] {
        let values = [
            ("usage_in_bytes", entry.usage),
            ("limit_in_bytes", entry.limit),
            ("max_usage_in_bytes", entry.max),
            ("failcnt", entry.failcnt),
        ];
        all.extend(values.map(|(name, value)| (format!("{prefix}.{name}"), value)));
    }
    all
}

fn v1_rows(cgroup: &str, m: &v1::Metrics) -> Vec<Row> {
    // The kernel counts these in ticks of a hundredth of a second.
    let ticks = |nanoseconds: u64| nanoseconds / 10_000_000;
    let mut all = rows("pids.current", [("", m.pids.current)]);
    all.extend(rows("pids.max", [("", m.pids.limit)]));
    all.extend(rows("cpuacct.usage", [("", m.cpu.usage.total)]));
    all.extend(rows(
        "cpuacct.stat",
        [("user", ticks(m.cpu.usage.user)), ("system", ticks(m.cpu.usage.kernel))],
    ));
    all.extend(
        m.cpu.usage.per_cpu.iter().enumerate().map(|(n, time)| (format!("cpuacct.usage_percpu {n}"), *time)),
    );
    let throttle = &m.cpu.throttling;
    all.extend(rows(
        "cpu.stat",
        [
            ("nr_periods", throttle.periods),
            ("nr_throttled", throttle.throttled_periods),
            ("throttled_time", throttle.throttled_time),
        ],
    ));
    all.extend(v1_memory(&m.memory));
    let oom = &m.memory_oom_control;
    all.extend(rows(
        "memory.oom_control",
        [
            ("oom_kill_disable", oom.oom_kill_disable),
            ("under_oom", oom.under_oom),
            ("oom_kill", oom.oom_kill),
        ],
    ));
    for (name, entries) in [
        ("io_service_bytes", &m.blkio.io_service_bytes_recursive),
        ("io_serviced", &m.blkio.io_serviced_recursive),
    ] {
        // Whichever the kernel's scheduler of these disks has.
        let files = ["bfq.{}_recursive", "{}_recursive", "throttle.{}_recursive", "throttle.{}"]
            .map(|file| format!("blkio.{}", file.replace("{}", name)));
        let file = files.iter().find(|file| {
            entries.iter().any(|e| kernel(cgroup, &format!("{file} {}:{} {}", e.major, e.minor, e.op)) > 0)
        });
        let file = file.unwrap_or(&files[2]);
        all.extend(entries.iter().map(|e| (format!("{file} {}:{} {}", e.major, e.minor, e.op), e.value)));
    }
    for huge in &m.hugetlb {
        let values =
            [("usage_in_bytes", huge.usage), ("max_usage_in_bytes", huge.max), ("failcnt", huge.failcnt)];
        all.extend(values.map(|(name, value)| (format!("hugetlb.{}.{name}", huge.pagesize), value)));
    }
    all
}

fn v2_memory(m: &v2::MemoryStat) -> Vec<Row> {
    let mut all = rows(
        "memory.stat",
        [
            ("anon", m.anon),
            ("file", m.file),
            ("kernel_stack", m.kernel_stack),
            ("slab", m.slab),
            ("sock", m.sock),
            ("shmem", m.shmem),
            ("file_mapped", m.file_mapped),
            ("file_dirty", m.file_dirty),
            ("file_writeback", m.file_writeback),
            ("anon_thp", m.anon_thp),
            ("inactive_anon", m.inactive_anon),
            ("active_anon", m.active_anon),
            ("inactive_file", m.inactive_file),
            ("active_file", m.active_file),
            ("unevictable", m.unevictable),
            ("slab_reclaimable", m.slab_reclaimable),
            ("slab_unreclaimable", m.slab_unreclaimable),
            ("pgfault", m.pgfault),
            ("pgmajfault", m.pgmajfault),
            ("workingset_refault+workingset_refault_anon+workingset_refault_file", m.workingset_refault),
            ("workingset_activate+workingset_activate_anon+workingset_activate_file", m.workingset_activate),
            ("workingset_nodereclaim", m.workingset_nodereclaim),
            ("pgrefill", m.pgrefill),
            ("pgscan", m.pgscan),
            ("pgsteal", m.pgsteal),
            ("pgactivate", m.pgactivate),
            ("pgdeactivate", m.pgdeactivate),
            ("pglazyfree", m.pglazyfree),
            ("pglazyfreed", m.pglazyfreed),
            ("thp_fault_alloc", m.thp_fault_alloc),
            ("thp_collapse_alloc", m.thp_collapse_alloc),
        ],
    );
    let files = [
        ("current", m.usage),
        ("max", m.usage_limit),
        ("swap.current", m.swap_usage),
        ("swap.max", m.swap_limit),
        ("peak", m.max_usage),
        ("swap.peak", m.swap_max_usage),
    ];
    all.extend(files.map(|(name, value)| (format!("memory.{name}"), value)));
    all.extend(pressure("memory", &m.psi));
    all
}

fn pressure(resource: &str, psi: &v2::PSIStats) -> Vec<Row> {
    let lines = [("some", &psi.some), ("full", &psi.full)];
    let hundredths = |average: f64| (average * 100.0) as u64;
    let values = lines.map(|(word, line)| {
        let file = format!("{resource}.pressure");
        [
            ("avg10", hundredths(line.avg10)),
            ("avg60", hundredths(line.avg60)),
            ("avg300", hundredths(line.avg300)),
            ("total", line.total),
        ]
        .map(|(key, value)| (format!("{file} {word} {key}"), value))
    });
    values.concat()
}

fn v2_rows(m: &v2::Metrics) -> Vec<Row> {
    let mut all = rows("pids.current", [("", m.pids.current)]);
    all.extend(rows("pids.max", [("", m.pids.limit)]));
    let c = &m.cpu;
    all.extend(rows(
        "cpu.stat",
        [
            ("usage_usec", c.usage_usec),
            ("user_usec", c.user_usec),
            ("system_usec", c.system_usec),
            ("nr_periods", c.nr_periods),
            ("nr_throttled", c.nr_throttled),
            ("throttled_usec", c.throttled_usec),
            ("nr_bursts", c.nr_bursts),
            ("burst_usec", c.burst_usec),
        ],
    ));
    all.extend(pressure("cpu", &c.psi));
    all.extend(v2_memory(&m.memory));
    let e = &m.memory_events;
    all.extend(rows(
        "memory.events",
        [
            ("low", e.low),
            ("high", e.high),
            ("max", e.max),
            ("oom", e.oom),
            ("oom_kill", e.oom_kill),
            ("oom_group_kill", e.oom_group_kill),
        ],
    ));
    for disk in &m.io.usage {
        let device = format!("{}:{}", disk.major, disk.minor);
        let values =
            [("rbytes", disk.rbytes), ("wbytes", disk.wbytes), ("rios", disk.rios), ("wios", disk.wios)];
        all.extend(values.map(|(key, value)| (format!("io.stat {device} {key}"), value)));
    }
    all.extend(pressure("io", &m.io.psi));
    for huge in &m.hugetlb {
        let file = |name: &str| format!("hugetlb.{}.{name}", huge.pagesize);
        all.extend([
            (file("current"), huge.current),
            (file("max"), huge.max),
            (file("events max"), huge.failcnt),
        ]);
    }
    all
}

fn answer(shim: &Shim<'_>) -> Vec<Row> {
    let stats = shim.stats().expect("Stats");
    match cgroup_v2() {
        true => v2_rows(&v2::Metrics::parse_from_bytes(&stats.value).expect("Metrics")),
        false => {
            v1_rows(shim.bundle.cgroup(), &v1::Metrics::parse_from_bytes(&stats.value).expect("Metrics"))
        }
    }
}

/// A paused container's counters stand still, but for what the kernel still has to add up: each number is the one that the
/// kernel's file has before and after, soon. Seen to fail with `user` and `system` exchanged in `stats_v1.rs` and
/// `stats_v2.rs`.
#[test]
fn every_statistic_is_what_the_kernel_says() {
    needs_containers!();
    let host = Host::new();
    // A number of its own for most fields: memory of tmpfs, a file that is written and read, faults, a limit that is hit.
    let mut bundle = host.bundle("a", "head -c 9000000 /dev/zero >/dev/shm/x; head -c 5000000 /dev/zero >/tmp/y; sync; cat /tmp/y >/dev/null; sleep 1000 & i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; touch /tmp/ready; sleep 1000; :");
    bundle.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    bundle.set("/linux/resources/pids", json!({"limit": 50}));
    bundle.set("/linux/resources/cpu", json!({"quota": 20_000, "period": 50_000}));
    let shim = host.start(bundle);
    shim.run();
    let ready = host.folder().join("upper-a/tmp/ready");
    eventually("the workload is done", SOON, || ready.exists().then_some(()));
    eventually("it sleeps", SOON, || (shim.pids().expect("Pids").len() == 3).then_some(()));
    shim.pause().expect("Pause");
    let cgroup = shim.bundle.cgroup().to_owned();
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + SOON;
    while seen.is_empty() || !wrong.is_empty() && Instant::now() < deadline {
        seen = answer(&shim);
        // The Go shim leaves out what its metrics did not have yet.
        seen.retain(|(_, value)| ours() || *value != 0);
        let compared = seen.iter().map(|(row, told)| (row, *told, kernel(&cgroup, row)));
        wrong = compared
            .filter(|(_, told, kernel)| told != kernel)
            .map(|(row, told, kernel)| format!("{row}: told {told}, the kernel has {kernel}"))
            .collect();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let told = |row: &str| seen.iter().find(|(name, _)| name == row).map_or(0, |(_, value)| *value);
    let (shmem, used, limit) = match cgroup_v2() {
        true => ("memory.stat shmem", "cpu.stat usage_usec", "memory.max"),
        false => ("memory.stat cache", "cpuacct.usage", "memory.limit_in_bytes"),
    };
    assert_eq!((told("pids.current"), told("pids.max"), told(limit)), (3, 50, 67_108_864));
    assert!(told(shmem) >= 9_000_000 && told(used) > 10_000 && told("cpu.stat nr_periods") > 0, "{seen:?}");
    shim.resume().expect("Resume");
}
