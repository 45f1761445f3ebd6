//! `linux.resources` as properties of a unit (systemd.resource-control(5)), as far as systemd knows them. The files of
//! the delegated cgroup are written afterwards and say the rest, but what systemd knows it must be told, or it writes
//! its own idea of it the next time it looks.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxWeightDevice};

use super::super::device_rules::{DeviceRules, Devices, Kind};
use super::super::error::{Error, Result};
use super::super::{DevicePolicy, block_io, cpu, memory};
use super::manager::Properties;
use super::value::Value;

const INFINITY: u64 = u64::MAX;
/// A CPU or memory node beyond this is a typing error, not a machine.
const MAX_CPU: u32 = 1 << 16;
/// CPUWeight=0 is cpu.idle since systemd 252; OOMPolicy= of scopes and MemoryZSwapMax= are there since 253.
const IDLE_SINCE: u32 = 252;
const OOM_POLICY_SINCE: u32 = 253;
const ZSWAP_SINCE: u32 = 253;

/// Where the unit's limits will be, and in what words they are told.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    pub unified: bool,
    /// systemd's version, if it matters (see `asks_version`), else 0.
    pub version: u32,
}

/// Whether the words depend on systemd's version: a question that costs a round trip, asked only then.
pub fn asks_version(r: &LinuxResources) -> bool {
    let map = r.unified().as_ref();
    let named = |name: &str| map.is_some_and(|map| map.contains_key(name));
    r.cpu().as_ref().is_some_and(|cpu| cpu.idle() == Some(1))
        || named("cpu.idle")
        || named("memory.oom.group")
        || named("memory.zswap.max")
}

/// What every scope of ours is.
pub fn fixed(id: &str, slice: &str, unified: bool) -> Properties {
    let io = if unified { "IOAccounting" } else { "BlockIOAccounting" };
    let switch = |name: &str, on: bool| (name.to_owned(), Value::Bool(on));
    vec![
        ("Description".into(), format!("container {id}").as_str().into()),
        ("Slice".into(), slice.into()),
        switch("Delegate", true),
        switch("DefaultDependencies", false),
        // A scope whose processes ended badly would otherwise stay as "failed" until somebody resets it.
        ("CollectMode".into(), "inactive-or-failed".into()),
        switch("MemoryAccounting", true),
        switch("CPUAccounting", true),
        switch(io, true),
        switch("TasksAccounting", true),
    ]
}

/// Everything but memory and the unified map: set when the unit is made.
pub fn early(r: &LinuxResources, dialect: Dialect) -> Result<Properties> {
    let mut out = Properties::new();
    if let Some(cpu) = r.cpu() {
        cpu_properties(cpu, dialect, &mut out)?;
    }
    if let Some(io) = r.block_io() {
        io_properties(io, dialect, &mut out);
    }
    if let Some(pids) = r.pids() {
        out.push(("TasksMax".into(), Value::U64(tasks_max(pids.limit()))));
    }
    // systemd cannot change this one later.
    if let Some(group) = r.unified().as_ref().and_then(|map| map.get("memory.oom.group"))
        && dialect.version >= OOM_POLICY_SINCE
    {
        let policy = if group.trim() == "1" { "kill" } else { "continue" };
        out.push(("OOMPolicy".into(), policy.into()));
    }
    Ok(out)
}

/// Memory and the unified map: set once the container is set up.
pub fn late(r: &LinuxResources, dialect: Dialect) -> Result<Properties> {
    let mut out = Properties::new();
    if let Some(memory) = r.memory() {
        memory_properties(memory, dialect, &mut out)?;
    }
    let mut map: Vec<_> = r.unified().iter().flatten().filter(|_| dialect.unified).collect();
    map.sort();
    for (name, value) in map {
        unified(name, value.trim(), dialect, &mut out)?;
    }
    Ok(out)
}

/// Which devices the unit may use. What systemd cannot express it is not told at all: our own rules hold either way, and
/// a half of them enforced by systemd would forbid what they allow.
pub fn devices(r: &LinuxResources, policy: DevicePolicy) -> Result<Properties> {
    if policy == DevicePolicy::Skip {
        return Ok(Properties::new());
    }
    let rules = DeviceRules::new(r.devices().as_deref().unwrap_or_default())?;
    let entry = |(devices, access): (&Devices, &_)| {
        let node = device_node(devices)?;
        Some(Value::Struct(vec![Value::Str(node), Value::Str(format!("{access}"))]))
    };
    let list: Option<Vec<_>> = rules.exceptions.iter().map(entry).collect();
    let list = list.filter(|_| !rules.allow_by_default);
    let policy = if list.is_some() { "strict" } else { "auto" };
    // The empty list first: it takes away what is there; others add to it.
    let allow = |items| ("DeviceAllow".to_owned(), Value::Array("(ss)".into(), items));
    let mut out = vec![allow(Vec::new()), ("DevicePolicy".into(), policy.into())];
    out.extend(list.map(allow));
    Ok(out)
}

/// The word for devices in systemd's list; it has none for one minor number of every major.
fn device_node(devices: &Devices) -> Option<String> {
    let (group, directory) = match devices.kind {
        Kind::Block => ("block", "/dev/block"),
        Kind::Char => ("char", "/dev/char"),
    };
    match (devices.major, devices.minor) {
        (Some(major), Some(minor)) => Some(format!("{directory}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{group}-{major}")),
        (None, None) => Some(format!("{group}-*")),
        (None, Some(_)) => None,
    }
}

fn cpu_properties(cpu: &LinuxCpu, dialect: Dialect, out: &mut Properties) -> Result<()> {
    let idle = cpu.idle() == Some(1) && dialect.unified && dialect.version >= IDLE_SINCE;
    let shares = cpu.shares().filter(|shares| *shares != 0);
    match (dialect.unified, idle, shares) {
        (true, true, _) => out.push(("CPUWeight".into(), Value::U64(0))),
        (true, false, Some(shares)) => {
            out.push(("CPUWeight".into(), Value::U64(cpu::weight_of_shares(shares))))
        }
        (false, _, Some(shares)) => out.push(("CPUShares".into(), Value::U64(shares))),
        _ => {}
    }
    quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), out);
    cpu_list("AllowedCPUs", "cpu.cpus", cpu.cpus().as_deref(), out)?;
    cpu_list("AllowedMemoryNodes", "cpu.mems", cpu.mems().as_deref(), out)
}

/// systemd counts in microseconds per second and whole percents, which are rounded up.
fn quota(quota: i64, period: u64, out: &mut Properties) {
    if period != 0 {
        out.push(("CPUQuotaPeriodUSec".into(), Value::U64(period)));
    }
    if quota == 0 && period == 0 {
        return;
    }
    let period = if period == 0 { cpu::DEFAULT_PERIOD } else { period };
    let per_second = match u64::try_from(quota) {
        Ok(quota) if quota > 0 => {
            (u128::from(quota) * 1_000_000 / u128::from(period)).next_multiple_of(10_000) as u64
        }
        _ => INFINITY,
    };
    out.push(("CPUQuotaPerSecUSec".into(), Value::U64(per_second)));
}

/// Throttles are the files' alone; so are weights of devices on v1, for which newer systemds have no word.
fn io_properties(io: &LinuxBlockIo, dialect: Dialect, out: &mut Properties) {
    let given = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
    if let Some(weight) = given(io.weight()) {
        out.push(match dialect.unified {
            true => ("IOWeight".into(), Value::U64(block_io::io_weight(weight).into())),
            false => ("BlockIOWeight".into(), Value::U64(weight.into())),
        });
    }
    let of_device = |device: &LinuxWeightDevice| {
        let node = format!("/dev/block/{}:{}", device.major(), device.minor());
        let weight = block_io::io_weight(given(device.weight())?);
        Some(Value::Struct(vec![Value::Str(node), Value::U64(weight.into())]))
    };
    let devices: Vec<_> = io.weight_device().iter().flatten().filter_map(of_device).collect();
    if dialect.unified && !devices.is_empty() {
        out.push(("IODeviceWeight".into(), Value::Array("(st)".into(), devices)));
    }
}

fn cpu_list(name: &str, field: &'static str, list: Option<&str>, out: &mut Properties) -> Result<()> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    let reason = "a list looks like 0-2,7";
    let bits = bits(list).ok_or_else(|| Error::Value { field, value: list.to_owned(), reason })?;
    out.push((name.to_owned(), Value::Array("y".into(), bits.into_iter().map(Value::Byte).collect())));
    Ok(())
}

/// A list such as `0-2,7` (cpuset(7), "List format") as a bit mask, lowest byte first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MAX_CPU {
            return None;
        }
        mask.resize(mask.len().max(last as usize / 8 + 1), 0);
        (first..=last).for_each(|cpu| mask[cpu as usize / 8] |= 1 << (cpu % 8));
    }
    (!mask.is_empty()).then_some(mask)
}

/// COMPAT: systemd knows no limit of 0; runc says 1.
fn tasks_max(limit: i64) -> u64 {
    u64::try_from(limit).map_or(INFINITY, |limit| limit.max(1))
}

fn memory_properties(m: &LinuxMemory, dialect: Dialect, out: &mut Properties) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    // -1 is "no limit", which systemd spells as the largest number.
    let mut push = |name: &str, value: i64| out.push((name.to_owned(), Value::U64(value as u64)));
    if !dialect.unified {
        given(m.limit()).into_iter().for_each(|limit| push("MemoryLimit", limit));
        return Ok(());
    }
    given(m.limit()).into_iter().for_each(|limit| push("MemoryMax", limit));
    given(m.reservation()).into_iter().for_each(|low| push("MemoryLow", low));
    // An update of the sum alone depends on the limit in force: the files know it, this table does not.
    if given(m.limit()).is_some()
        && let Some(swap) = memory::swap_v2(given(m.limit()), given(m.swap()))?
    {
        push("MemorySwapMax", swap);
    }
    Ok(())
}

/// One entry of the unified map; what systemd has no word for is left to the file of that name.
fn unified(name: &str, value: &str, dialect: Dialect, out: &mut Properties) -> Result<()> {
    let refuse = |reason| Error::Value { field: "unified", value: format!("{name}={value}"), reason };
    let number = || match value {
        "max" => Ok(INFINITY),
        value => value.parse::<u64>().map_err(|_| refuse("a number or max is needed")),
    };
    let property = match name {
        "cpu.weight" => "CPUWeight",
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "memory.zswap.max" if dialect.version >= ZSWAP_SINCE => "MemoryZSwapMax",
        "pids.max" => {
            out.push(("TasksMax".into(), Value::U64(number()?.max(1))));
            return Ok(());
        }
        "cpu.idle" => {
            let idle = value == "1" && dialect.version >= IDLE_SINCE;
            out.extend(idle.then(|| ("CPUWeight".into(), Value::U64(0))));
            return Ok(());
        }
        "cpu.max" => {
            let (max, period) = value.split_once(' ').unwrap_or((value, ""));
            let max = if max == "max" { Ok(-1) } else { max.parse() };
            let period = if period.is_empty() { Ok(cpu::DEFAULT_PERIOD) } else { period.trim().parse() };
            let (Ok(max), Ok(period)) = (max, period) else {
                return Err(refuse("it is a quota or max, and a period"));
            };
            quota(max, period, out);
            return Ok(());
        }
        "cpuset.cpus" => return cpu_list("AllowedCPUs", "unified.cpuset.cpus", Some(value), out),
        "cpuset.mems" => return cpu_list("AllowedMemoryNodes", "unified.cpuset.mems", Some(value), out),
        _ => return Ok(()),
    };
    out.push((property.to_owned(), Value::U64(number()?)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: Dialect = Dialect { unified: true, version: 252 };
    const V1: Dialect = Dialect { unified: false, version: 0 };

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn told(list: Properties) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::U64(INFINITY) => "infinity".to_owned(),
            Value::U64(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        list.iter().map(|(name, value)| format!("{name}={}", text(value))).collect()
    }

    #[test]
    fn cpu_io_and_pids_are_told_in_the_words_of_the_hierarchy() {
        let r = resources(
            r#"{"cpu":{"shares":1024,"quota":25001,"period":50000},"blockIO":{"weight":500},"pids":{"limit":0}}"#,
        );
        let cpu = ["CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=510000"];
        let v2 = [&["CPUWeight=100"], &cpu[..], &["IOWeight=4950", "TasksMax=1"]].concat();
        assert_eq!(told(early(&r, V2).unwrap()), v2);
        let v1 = [&["CPUShares=1024"], &cpu[..], &["BlockIOWeight=500", "TasksMax=1"]].concat();
        assert_eq!(told(early(&r, V1).unwrap()), v1);
        let unlimited = resources(r#"{"cpu":{"quota":-1},"pids":{"limit":-1}}"#);
        let expected = ["CPUQuotaPerSecUSec=infinity", "TasksMax=infinity"];
        assert_eq!(told(early(&unlimited, V2).unwrap()), expected);
    }

    /// As crun tells them; runc leaves them to the files.
    #[test]
    fn weights_of_devices_are_told_on_v2() {
        let r = resources(
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":16,"weight":500},{"major":8,"minor":0,"leafWeight":5}]}}"#,
        );
        let expected = r#"IODeviceWeight=Array("(st)", [Struct([Str("/dev/block/8:16"), U64(4950)])])"#;
        assert_eq!(told(early(&r, V2).unwrap()), [expected]);
        assert!(early(&r, V1).unwrap().is_empty());
    }

    #[test]
    fn zswap_is_told_to_a_systemd_that_knows_it() {
        let r = resources(r#"{"unified":{"memory.zswap.max":"4096"}}"#);
        assert!(asks_version(&r));
        let new = Dialect { unified: true, version: 253 };
        assert_eq!(told(late(&r, new).unwrap()), ["MemoryZSwapMax=4096"]);
        assert!(late(&r, V2).unwrap().is_empty());
    }

    #[test]
    fn memory_and_swap_are_told_apart_on_v2_and_the_limit_alone_on_v1() {
        let r = resources(r#"{"memory":{"limit":100,"swap":300,"reservation":50}}"#);
        assert_eq!(told(late(&r, V2).unwrap()), ["MemoryMax=100", "MemoryLow=50", "MemorySwapMax=200"]);
        assert_eq!(told(late(&r, V1).unwrap()), ["MemoryLimit=100"]);
        let none = resources(r#"{"memory":{"limit":-1}}"#);
        assert_eq!(told(late(&none, V2).unwrap()), ["MemoryMax=infinity", "MemorySwapMax=infinity"]);
        assert!(late(&resources(r#"{"memory":{"limit":100,"swap":50}}"#), V2).is_err());
    }

    #[test]
    fn the_unified_map_is_translated_where_systemd_has_a_word() {
        let r = resources(
            r#"{"unified":{"memory.high":"max","memory.min":"5","pids.max":"7","cpu.max":"max 20000","io.max":"8:0 x"}}"#,
        );
        let expected = [
            "CPUQuotaPeriodUSec=20000",
            "CPUQuotaPerSecUSec=infinity",
            "MemoryHigh=infinity",
            "MemoryMin=5",
            "TasksMax=7",
        ];
        assert_eq!(told(late(&r, V2).unwrap()), expected);
        assert!(late(&resources(r#"{"unified":{"memory.high":"much"}}"#), V2).is_err());
    }

    #[test]
    fn idle_and_the_oom_policy_need_a_systemd_that_knows_them() {
        let r = resources(r#"{"cpu":{"idle":1,"shares":2},"unified":{"memory.oom.group":"1"}}"#);
        assert!(asks_version(&r) && !asks_version(&resources(r#"{"cpu":{"shares":5}}"#)));
        let old = Dialect { unified: true, version: 251 };
        assert_eq!(told(early(&r, V2).unwrap()), ["CPUWeight=0"]);
        assert_eq!(told(early(&r, old).unwrap()), ["CPUWeight=1"]);
        let new = Dialect { unified: true, version: 253 };
        assert_eq!(told(early(&r, new).unwrap()), ["CPUWeight=0", "OOMPolicy=Str(\"kill\")"]);
    }

    #[test]
    fn cpu_lists_become_masks() {
        assert_eq!(bits("0-2, 9"), Some(vec![0b111, 0b10]));
        for bad in ["", ",", "2-1", "x", "0-4294967295", "-"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_are_a_strict_list_or_none_of_systemds_business() {
        let deny = r#"{"allow":false,"access":"rwm"}"#;
        let list = |rules: &str| {
            let found =
                devices(&resources(&format!(r#"{{"devices":[{rules}]}}"#)), DevicePolicy::Enforce).unwrap();
            (found[1].1.clone(), found.get(2).map(|(_, list)| format!("{list:?}")).unwrap_or_default())
        };
        let (policy, allowed) =
            list(&format!(r#"{deny},{{"allow":true,"type":"b","major":7,"access":"rw"}}"#));
        assert_eq!(policy, "strict".into());
        for word in ["block-7", "char-*", "/dev/char/1:3", "char-136"] {
            assert!(allowed.contains(&format!("{word:?}")), "{word}: {allowed}");
        }
        for all in [
            r#"{"allow":true,"access":"rwm"}"#,
            &format!(r#"{deny},{{"allow":true,"type":"c","minor":5,"access":"r"}}"#),
        ] {
            assert_eq!(list(all), ("auto".into(), String::new()));
        }
        assert!(devices(&LinuxResources::default(), DevicePolicy::Skip).unwrap().is_empty());
    }
}
