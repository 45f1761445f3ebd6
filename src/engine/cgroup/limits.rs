//! `linux.resources` onto the cgroup: which controller each limit needs, and the order.

use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::error::{Error, Result};
use super::systemd::{self, Part};
use super::{Cgroup, DevicePolicy, Place, block_io, cpu, create, devices, file, memory};

impl Cgroup {
    /// Sets every limit of a new container, memory last.
    #[cfg(test)]
    pub fn apply(&self, r: &LinuxResources, policy: DevicePolicy) -> Result<()> {
        self.apply_early(r, policy)?;
        self.apply_memory(r)
    }

    /// Sets everything but memory (and the unified map, which may hold memory settings).
    ///
    /// ORDER: what the set-up of a container dirties counts against its limit. Whoever applies memory after
    /// that, right before the workload starts, can run containers with limits smaller than the set-up needs.
    pub fn apply_early(&self, r: &LinuxResources, policy: DevicePolicy) -> Result<()> {
        if policy == DevicePolicy::Enforce {
            devices::apply(self, r.devices().as_deref().unwrap_or_default())?;
        }
        self.apply_plain(r)?;
        // Init comes beside the process that holds the scope, which counts as well: see `vacated`.
        if self.unit().is_some() { pids(self, r, 1) } else { Ok(()) }
    }

    /// The process that held the scope for init is gone, and with it the room it had.
    pub fn vacated(&self, r: &LinuxResources) -> Result<()> {
        if self.unit().is_some() { pids(self, r, 0) } else { Ok(()) }
    }

    /// Sets the memory limits and the unified map.
    pub fn apply_memory(&self, r: &LinuxResources) -> Result<()> {
        self.tell_systemd(r, Part::Late)?;
        self.write_memory(r)
    }

    /// ORDER: systemd first; the files, which know more, have the last word.
    fn tell_systemd(&self, r: &LinuxResources, part: Part) -> Result<()> {
        let Some(unit) = self.unit() else { return Ok(()) };
        if let Some(memory) = r.memory() {
            memory::check(self, memory)?;
        }
        systemd::set(unit, r, part, self.v1().is_empty())
    }

    fn write_memory(&self, r: &LinuxResources) -> Result<()> {
        if let Some(memory) = r.memory() {
            memory::apply(self, memory)?;
        }
        // ORDER: the unified map speaks the kernel's own words and has the last one.
        unified(self, r)
    }

    /// Changes the limits that are given on a running container; device rules only when there are any.
    pub fn update(&self, r: &LinuxResources) -> Result<()> {
        let rules = r.devices().as_deref().filter(|rules| !rules.is_empty());
        match rules.is_some() && self.unit().is_some() && !self.v1().is_empty() {
            true => self.frozen(|| self.tell_systemd(r, Part::All))?,
            false => self.tell_systemd(r, Part::All)?,
        }
        if let Some(rules) = rules {
            devices::apply(self, rules)?;
        }
        self.apply_plain(r)?;
        self.write_memory(r)
    }

    /// COMPAT: systemd replaces the device rules of a v1 cgroup by denying everything first. Nobody is to run meanwhile.
    fn frozen(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let thaw = !self.is_frozen()?;
        if thaw {
            self.freeze(Duration::from_secs(2))?;
        }
        let done = work();
        let thawed = if thaw { self.thaw() } else { Ok(()) };
        done.and(thawed)
    }

    fn apply_plain(&self, r: &LinuxResources) -> Result<()> {
        if let Some(cpu) = r.cpu() {
            cpu::apply(self, cpu)?;
        }
        pids(self, r, 0)?;
        if let Some(io) = r.block_io() {
            block_io::apply(self, io)?;
        }
        hugetlb(self, r)?;
        rdma(self, r)?;
        network(self, r)
    }

    /// Where a controller's files are, for setting `field`; `controller` by its v1 name.
    pub(super) fn controller(&self, controller: &'static str, field: &'static str) -> Result<Place<'_>> {
        let v2_name = if controller == "blkio" { "io" } else { controller };
        let missing = |remedy| {
            let path = self.dirs().next().map(|d| d.dir.clone()).unwrap_or_default();
            Error::NoController { field, controller: v2_name, path, remedy }
        };
        let place = self.place(controller);
        let Some(Place::V2(dir)) = place else {
            return place.ok_or_else(|| missing("mount its hierarchy"));
        };
        let available =
            || file::read(dir, "cgroup.controllers").map(|c| c.split_whitespace().any(|c| c == v2_name));
        if !available()? {
            // On a hybrid host the extra hierarchy's controllers are enabled only when a limit asks for one.
            if let (Some(unified), Some(parent)) = (self.unified(), dir.parent()) {
                create::enable(&unified.mount, parent, Some(v2_name))?;
            }
            if !available()? {
                return Err(missing(
                    "enable it in cgroup.subtree_control of every parent, which must hold no processes",
                ));
            }
        }
        Ok(Place::V2(dir))
    }
}

/// `guests` are processes that the limit does not mean.
fn pids(cgroup: &Cgroup, r: &LinuxResources, guests: i64) -> Result<()> {
    let Some(pids) = r.pids() else { return Ok(()) };
    let (Place::V1(dir) | Place::V2(dir)) = cgroup.controller("pids", "pids.limit")?;
    file::set(dir, "pids.max", &pids_max(pids.limit(), guests), "pids.limit")
}

/// COMPAT: 0 is "none but init": systemd knows no 0, so runc writes 1 with either driver.
fn pids_max(limit: i64, guests: i64) -> String {
    match limit {
        limit if limit < 0 => "max".to_owned(),
        limit => limit.max(1).saturating_add(guests).to_string(),
    }
}

fn hugetlb(cgroup: &Cgroup, r: &LinuxResources) -> Result<()> {
    for limit in r.hugepage_limits().iter().flatten() {
        let (dir, suffix) = match cgroup.controller("hugetlb", "hugepageLimits")? {
            Place::V1(dir) => (dir, "limit_in_bytes"),
            Place::V2(dir) => (dir, "max"),
        };
        let size = limit.page_size();
        if size.contains('/') {
            let reason = "a page size looks like 2MB or 1GB";
            return Err(Error::Value { field: "hugepageLimits.pageSize", value: size.clone(), reason });
        }
        let value = limit.limit().to_string();
        file::set(dir, &format!("hugetlb.{size}.{suffix}"), &value, "hugepageLimits")
            .map_err(|e| e.with_remedy("/sys/kernel/mm/hugepages lists the page sizes of this host"))?;
        // KERNEL: reservations are counted since 5.7; without the file, faults are the only limit.
        file::write_if_there(dir, &format!("hugetlb.{size}.rsvd.{suffix}"), &value)
            .map_err(|e| e.of("hugepageLimits"))?;
    }
    Ok(())
}

fn rdma(cgroup: &Cgroup, r: &LinuxResources) -> Result<()> {
    for (device, limit) in r.rdma().iter().flatten() {
        let (Place::V1(dir) | Place::V2(dir)) = cgroup.controller("rdma", "rdma")?;
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        file::set(dir, "rdma.max", &line, "rdma")
            .map_err(|e| e.with_remedy("rdma.max of the root lists the devices"))?;
    }
    Ok(())
}

/// net_cls and net_prio exist on v1 only.
fn network(cgroup: &Cgroup, r: &LinuxResources) -> Result<()> {
    let Some(network) = r.network() else { return Ok(()) };
    let v1 = |controller: &'static str, field| {
        cgroup.v1_dir(controller).ok_or_else(|| Error::NoController {
            field,
            controller,
            path: cgroup.dirs().next().map(|d| d.dir.clone()).unwrap_or_default(),
            remedy: "it exists on cgroup v1 only; mount its hierarchy or leave the limit out",
        })
    };
    if let Some(class) = network.class_id().filter(|c| *c != 0) {
        let field = "network.classID";
        file::set(v1("net_cls", field)?, "net_cls.classid", &class.to_string(), field)?;
    }
    for priority in network.priorities().iter().flatten() {
        let field = "network.priorities";
        let line = format!("{} {}", priority.name(), priority.priority());
        file::set(v1("net_prio", field)?, "net_prio.ifpriomap", &line, field)
            .map_err(|e| e.with_remedy("the interface must exist on the host"))?;
    }
    Ok(())
}

/// The map of cgroup2 file names to values, written as they are.
fn unified(cgroup: &Cgroup, r: &LinuxResources) -> Result<()> {
    let Some(map) = r.unified().as_ref().filter(|map| !map.is_empty()) else { return Ok(()) };
    let refuse = |name: &str, reason| Err(Error::Value { field: "unified", value: name.to_owned(), reason });
    for (name, value) in map {
        let (true, Some(dir)) = (cgroup.v1().is_empty(), cgroup.unified()) else {
            return refuse(name, "the unified map needs a host with cgroup v2 alone");
        };
        if name.contains('/') || !name.contains('.') {
            return refuse(name, "it must be a file name of the form CONTROLLER.PARAMETER");
        }
        // KERNEL: one write is one command, so a value of several lines is several writes.
        for line in value.lines() {
            file::set(&dir.dir, name, line, "unified").map_err(|e| match e.errno() {
                libc::ENOENT | libc::EACCES => e.with_remedy(
                    "the kernel has no such setting, or its controller is not enabled for this cgroup",
                ),
                _ => e,
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, testing};
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn read(place: Option<Place<'_>>, v1: &str, v2: &str) -> String {
        let text = match place.unwrap() {
            Place::V1(dir) => file::read(dir, v1),
            Place::V2(dir) => file::read(dir, v2),
        };
        text.unwrap().trim().to_owned()
    }

    #[test]
    fn limits_are_set_and_updated_up_and_down() {
        let Some(cgroup) = testing::cgroup("limits") else { return };
        cgroup.create().unwrap();
        let first = resources(
            r#"{"cpu":{"shares":512,"quota":20000,"period":50000},"pids":{"limit":33},
                "memory":{"limit":67108864,"swap":134217728,"reservation":33554432}}"#,
        );
        cgroup.apply(&first, DevicePolicy::Skip).unwrap();
        assert_eq!(read(cgroup.place("pids"), "pids.max", "pids.max"), "33");
        assert_eq!(read(cgroup.place("memory"), "memory.limit_in_bytes", "memory.max"), "67108864");
        assert_eq!(cgroup.memory_peak_and_limit().1, Some(67_108_864));
        assert_eq!(read(cgroup.place("cpu"), "cpu.cfs_quota_us", "cpu.max").split(' ').next(), Some("20000"));
        for (limit, swap) in [(268_435_456, 536_870_912u64), (33_554_432, 33_554_432)] {
            cgroup.update(&resources(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#))).unwrap();
            assert_eq!(cgroup.memory_peak_and_limit().1, Some(limit));
        }
        cgroup
            .update(&resources(r#"{"cpu":{"quota":-1},"pids":{"limit":-1},"memory":{"limit":-1}}"#))
            .unwrap();
        assert_eq!(cgroup.memory_peak_and_limit().1, None);
        assert_eq!(read(cgroup.place("pids"), "pids.max", "pids.max"), "max");
        cgroup.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_bad_quota_is_refused_with_the_reason() {
        let Some(cgroup) = testing::cgroup("quota") else { return };
        cgroup.create().unwrap();
        let e = cgroup.update(&resources(r#"{"cpu":{"quota":10}}"#)).unwrap_err().to_string();
        assert!(
            e.starts_with("limit linux.resources.cpu.quota: ")
                && e.contains("EINVAL")
                && e.contains("at least 1000"),
            "{e}"
        );
        cgroup.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn the_unified_map_is_written_on_v2_and_refused_elsewhere() {
        let Some(cgroup) = testing::cgroup("unified") else { return };
        cgroup.create().unwrap();
        let done = cgroup.update(&resources(r#"{"unified":{"pids.max":"7"}}"#));
        if cgroup.v1().is_empty() {
            done.unwrap();
            assert_eq!(read(cgroup.place("pids"), "", "pids.max"), "7");
            for bad in [r#"{"unified":{"../pids.max":"7"}}"#, r#"{"unified":{"nothing.max":"7"}}"#] {
                assert!(cgroup.update(&resources(bad)).is_err(), "{bad}");
            }
        } else {
            assert!(done.unwrap_err().to_string().contains("cgroup v2 alone"));
        }
        cgroup.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_controller_the_host_lacks_is_named_with_the_limit() {
        let Some(cgroup) = testing::cgroup("absent") else { return };
        cgroup.create().unwrap();
        if cgroup.v1_dir("net_cls").is_none() {
            let e = cgroup.update(&resources(r#"{"network":{"classID":1048577}}"#)).unwrap_err().to_string();
            assert!(e.contains("network.classID") && e.contains("net_cls"), "{e}");
        }
        cgroup.remove(Duration::ZERO).unwrap();
    }

    fn written(json: &str, files: &[&str]) -> Vec<String> {
        testing::written(Mode::V1, &resources(json), files)
    }

    /// "hcaHandles: specifies the maximum number of hca_handles in the cgroup"; "hcaObjects: specifies the maximum number of
    /// hca_objects in the cgroup" (config-linux.md, "RDMA").
    #[test]
    fn rdma_is_limited_by_device() {
        let json = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}}"#;
        assert_eq!(written(json, &["rdma.max"]), ["mlx5_1 hca_handle=3 hca_object=10000"]);
        assert_eq!(written(r#"{"rdma":{"a":{"hcaObjects":2}}}"#, &["rdma.max"]), ["a hca_object=2"]);
    }

    /// "priority applied to the interface" (config-linux.md, "Network").
    #[test]
    fn network_priorities_are_set_by_interface() {
        let json = r#"{"network":{"priorities":[{"name":"eth0","priority":500}]}}"#;
        assert_eq!(written(json, &["net_prio.ifpriomap"]), ["eth0 500"]);
    }

    /// "0 is a valid limit value for the pids cgroup controller from the kernel's perspective and SHOULD be treated as such by
    /// runtimes." (config-linux.md, "PIDs")
    #[test]
    fn a_pids_limit_of_zero_leaves_room_for_init_alone() {
        assert_eq!(
            [(0, 0), (-1, 0), (5, 0)].map(|(limit, guests)| pids_max(limit, guests)),
            ["1", "max", "5"]
        );
        assert_eq!(
            [(0, 1), (-1, 1), (5, 1)].map(|(limit, guests)| pids_max(limit, guests)),
            ["2", "max", "6"]
        );
    }
}
