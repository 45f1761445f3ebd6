//! `resources.blockIO`: weights and throttles.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

use super::error::Result;
use super::{Cgroup, Place, file};

const NO_WEIGHT: &str = "no disk of this host has a scheduler with weights (BFQ, or io.cost on cgroup v2)";

pub(super) fn apply(cgroup: &Cgroup, io: &LinuxBlockIo) -> Result<()> {
    let weights = io.weight_device().iter().flatten().count();
    if given(io.weight()).is_none()
        && given(io.leaf_weight()).is_none()
        && weights == 0
        && throttles(io).next().is_none()
    {
        return Ok(());
    }
    match cgroup.controller("blkio", "blockIO")? {
        Place::V1(dir) => apply_v1(dir, io),
        Place::V2(dir) => apply_v2(dir, io),
    }
}

fn given(weight: Option<u16>) -> Option<u16> {
    weight.filter(|w| *w != 0)
}

/// A v1 file, a key of cgroup2's `io.max` and the field that they are for.
type Throttle = (&'static str, &'static str, &'static str);

/// Every throttle with its places.
fn throttles(io: &LinuxBlockIo) -> impl Iterator<Item = (Throttle, &LinuxThrottleDevice)> {
    let lists = [
        (
            ("blkio.throttle.read_bps_device", "rbps", "blockIO.throttleReadBpsDevice"),
            io.throttle_read_bps_device(),
        ),
        (
            ("blkio.throttle.write_bps_device", "wbps", "blockIO.throttleWriteBpsDevice"),
            io.throttle_write_bps_device(),
        ),
        (
            ("blkio.throttle.read_iops_device", "riops", "blockIO.throttleReadIOPSDevice"),
            io.throttle_read_iops_device(),
        ),
        (
            ("blkio.throttle.write_iops_device", "wiops", "blockIO.throttleWriteIOPSDevice"),
            io.throttle_write_iops_device(),
        ),
    ];
    lists.into_iter().flat_map(|(places, list)| list.iter().flatten().map(move |d| (places, d)))
}

fn apply_v1(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = given(io.weight()) {
        weight_v1(dir, "weight", &weight.to_string(), "blockIO.weight")?;
    }
    if let Some(weight) = given(io.leaf_weight()) {
        weight_v1(dir, "leaf_weight", &weight.to_string(), "blockIO.leafWeight")?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = given(device.weight()) {
            weight_v1(dir, "weight_device", &of_device(device, weight), "blockIO.weightDevice")?;
        }
        if let Some(weight) = given(device.leaf_weight()) {
            weight_v1(dir, "leaf_weight_device", &of_device(device, weight), "blockIO.weightDevice")?;
        }
    }
    for ((name, _, field), device) in throttles(io) {
        let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
        file::set(dir, name, &line, field).map_err(no_device)?;
    }
    Ok(())
}

/// KERNEL: CFQ's blkio.weight went with 5.0; BFQ's files carry a name of their own.
fn weight_v1(dir: &Path, name: &str, value: &str, field: &'static str) -> Result<()> {
    if file::write_if_there(dir, &format!("blkio.{name}"), value).map_err(|e| e.of(field))? {
        return Ok(());
    }
    file::set(dir, &format!("blkio.bfq.{name}"), value, field).map_err(no_device)
}

fn apply_v2(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    // cgroup2 has no leaf weights: there are no tasks beside child cgroups.
    if let Some(weight) = given(io.weight())
        && !file::write_if_there(dir, "io.bfq.weight", &weight.to_string())
            .map_err(|e| e.of("blockIO.weight"))?
    {
        file::set(dir, "io.weight", &io_weight(weight).to_string(), "blockIO.weight").map_err(no_device)?;
    }
    for device in io.weight_device().iter().flatten() {
        let Some(weight) = given(device.weight()) else { continue };
        let written = file::write_if_there(dir, "io.bfq.weight", &of_device(device, weight));
        if !written.map_err(|e| e.of("blockIO.weightDevice"))? {
            file::set(dir, "io.weight", &of_device(device, io_weight(weight)), "blockIO.weightDevice")
                .map_err(no_device)?;
        }
    }
    for ((_, key, field), device) in throttles(io) {
        file::set(dir, "io.max", &io_max(key, device), field).map_err(no_device)?;
    }
    Ok(())
}

fn of_device(device: &LinuxWeightDevice, weight: u16) -> String {
    format!("{}:{} {weight}", device.major(), device.minor())
}

/// 0 takes a throttle away; cgroup2 spells that `max`.
fn io_max(key: &str, device: &LinuxThrottleDevice) -> String {
    let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
    format!("{}:{} {key}={rate}", device.major(), device.minor())
}

/// The spec's 10..=1000 stretched over io.weight's 1..=10000, as runc does.
pub(super) fn io_weight(weight: u16) -> u16 {
    let weight = u32::from(weight.clamp(10, 1000));
    (1 + (weight - 10) * 9999 / 990) as u16
}

fn no_device(e: super::Error) -> super::Error {
    match e.errno() {
        libc::ENODEV | libc::ENXIO => {
            e.with_remedy("there is no block device with this major:minor on the host")
        }
        libc::ENOENT | libc::EOPNOTSUPP => e.with_remedy(NO_WEIGHT),
        libc::EINVAL | libc::ERANGE => {
            e.with_remedy("weights are 10 to 1000; throttles need a whole disk, no partition")
        }
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, testing};
    use super::*;

    const WEIGHTS: &str = r#"{"weight":300,"leafWeight":20,
        "weightDevice":[{"major":8,"minor":16,"weight":500,"leafWeight":30}]}"#;

    fn written(mode: Mode, block_io: &str, files: &[&str]) -> Vec<String> {
        let json = format!(r#"{{"blockIO":{block_io}}}"#);
        testing::written(mode, &serde_json::from_str(&json).unwrap(), files)
    }

    /// "weight: specifies per-cgroup weight." "weightDevice: an array of per-device bandwidth weights." (config-linux.md,
    /// "Block IO")
    #[test]
    fn on_v1_weights_go_to_the_files_of_the_scheduler_at_work() {
        let names = ["weight", "leaf_weight", "weight_device", "leaf_weight_device"];
        for scheduler in ["blkio", "blkio.bfq"] {
            let files = names.map(|name| format!("{scheduler}.{name}"));
            let files = files.each_ref().map(String::as_str);
            assert_eq!(
                written(Mode::V1, WEIGHTS, &files),
                ["300", "20", "8:16 500", "8:16 30"],
                "{scheduler}"
            );
        }
    }

    /// The same on cgroup v2, which has no leaf weights: BFQ takes the spec's numbers, io.cost a wider range. A file
    /// here is not emptied between two writes, so each of the two is tested by itself.
    #[test]
    fn on_v2_weights_go_to_bfq_or_else_to_io_cost() {
        let one = r#"{"weight":300,"leafWeight":20}"#;
        let of_device = r#"{"weightDevice":[{"major":8,"minor":16,"weight":500,"leafWeight":30}]}"#;
        for (json, bfq, cost) in [(one, "300", "2930"), (of_device, "8:16 500", "8:16 4950")] {
            let both = written(Mode::Unified, json, &["io.bfq.weight", "io.weight"]);
            assert_eq!(both, [bfq, ""], "where BFQ is at work");
            assert_eq!(written(Mode::Unified, json, &["io.weight"]), [cost]);
        }
    }

    /// "throttleReadBpsDevice, throttleWriteBpsDevice (array of objects, OPTIONAL) - an array of per-device bandwidth rate
    /// limits." (config-linux.md, "Block IO") Each is a line of its own for io.max.
    #[test]
    fn on_v2_throttles_are_the_keys_of_io_max() {
        let names = ["ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS"];
        for (name, key) in names.into_iter().zip(["rbps", "wbps", "riops", "wiops"]) {
            for (rate, value) in [("1024", "1024"), ("0", "max")] {
                let json = format!(r#"{{"throttle{name}Device":[{{"major":8,"minor":0,"rate":{rate}}}]}}"#);
                assert_eq!(written(Mode::Unified, &json, &["io.max"]), [format!("8:0 {key}={value}")]);
            }
        }
    }

    #[test]
    fn weights_are_stretched_over_the_whole_range() {
        assert_eq!((io_weight(10), io_weight(1000), io_weight(500)), (1, 10_000, 4950));
    }
}
