//! Settings of cgroup v1 that v2 has nothing for (cgroup-v2.rst, "Deprecated v1 Core Features" and the controllers' files).
//!
//! COMPAT: runc passes over them too. Here the log says so; what would change what a container may do (`realtimeRuntime`,
//! `network`) is refused where it is set.

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, Place};

impl Cgroup {
    /// A sentence about the settings that have no effect here, for the log.
    pub fn ignored(&self, r: &LinuxResources) -> Option<String> {
        let on_v2 = |controller| matches!(self.place(controller), Some(Place::V2(_)));
        let mut names = Vec::new();
        if let Some(memory) = r.memory().as_ref().filter(|_| on_v2("memory")) {
            let size = |size: Option<i64>| size.is_some_and(|size| size > 0);
            // -1 (all ones here) is "leave it".
            let swappiness = memory.swappiness().is_some_and(|value| value as i64 != -1);
            names.extend([
                ("memory.kernel", size(memory.kernel())),
                ("memory.kernelTCP", size(memory.kernel_tcp())),
                ("memory.swappiness", swappiness),
                ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
                ("memory.useHierarchy", memory.use_hierarchy() == Some(false)),
            ]);
        }
        if let Some(io) = r.block_io().as_ref().filter(|_| on_v2("blkio")) {
            let given = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
            let of_devices = io.weight_device().iter().flatten().any(|device| given(device.leaf_weight()));
            names.push(("blockIO.leafWeight", given(io.leaf_weight())));
            names.push(("blockIO.weightDevice.leafWeight", of_devices));
        }
        let names: Vec<_> = names.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect();
        let list = names.join(", ");
        (!names.is_empty()).then(|| format!("linux.resources: cgroup v2 has nothing for {list}: left out"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dir;
    use super::*;

    #[test]
    fn what_only_v1_has_is_named_on_v2() {
        let dir = |controllers: &[&str]| Dir {
            controllers: controllers.iter().map(ToString::to_string).collect(),
            mount: "/cg".into(),
            dir: "/cg/c".into(),
        };
        let told = |cgroup: &Cgroup, json: &str| cgroup.ignored(&serde_json::from_str(json).unwrap());
        let all = r#"{"memory":{"limit":5,"kernel":5,"kernelTCP":5,"swappiness":0,"disableOOMKiller":true,"useHierarchy":false},
            "blockIO":{"weight":10,"leafWeight":10,"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#;
        let none = r#"{"memory":{"limit":5,"kernel":-1,"swappiness":18446744073709551615,"disableOOMKiller":false},
            "blockIO":{"weight":10}}"#;
        let v2 = Cgroup::new(Vec::new(), Some(dir(&[])));
        assert_eq!(
            told(&v2, all).unwrap(),
            "linux.resources: cgroup v2 has nothing for memory.kernel, memory.kernelTCP, memory.swappiness, \
             memory.disableOOMKiller, memory.useHierarchy, blockIO.leafWeight, blockIO.weightDevice.leafWeight: left out"
        );
        assert_eq!(told(&v2, none), None);
        assert_eq!(told(&Cgroup::new(vec![dir(&["memory", "blkio"])], None), all), None);
        assert_eq!(told(&Cgroup::none(), all), None);
    }
}
