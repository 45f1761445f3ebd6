//! What would be written where: no machine of ours has resctrl, so a folder stands for its mount point. The folder
//! only holds names and text; what the kernel makes of them is not tested here.

use super::*;

fn rdt(json: &str) -> LinuxIntelRdt {
    serde_json::from_str(json).unwrap()
}

fn prepared(root: &Path, json: &str) -> Result<Groups, String> {
    let mut groups = Groups::default();
    match Wanted::new(&rdt(json), "c1", root).carry_out(&mut groups) {
        Ok(()) => Ok(groups),
        Err(e) => Err(e.to_string()),
    }
}

fn schemata(group: &Path) -> String {
    fs::read_to_string(group.join("schemata")).unwrap_or_default()
}

#[test]
fn the_mount_point_is_found_by_its_type() {
    let mountinfo = "25 1 0:23 / /sys rw - sysfs sysfs rw\n\
                     60 25 0:50 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n";
    assert_eq!(mount_point(mountinfo), Some("/sys/fs/resctrl".into()));
    assert_eq!(mount_point("25 1 0:23 / /resctrl rw - sysfs resctrl rw\n"), None);
}

/// "If closID is not set, runtimes MUST use the container ID … and create the <container-id> directory."
#[test]
fn without_a_class_the_container_has_its_own_group_which_goes_with_it() {
    let root = tempfile::tempdir().unwrap();
    let groups = prepared(root.path(), r#"{"memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=f"}"#).unwrap();
    let group = root.path().join("c1");
    assert_eq!(groups, Groups { joined: vec![group.clone()], owned: vec![group.clone()] });
    // "The runtimes MUST write l3CacheSchema first and memBwSchema last."
    assert_eq!(schemata(&group), "L3:0=f\nMB:0=20\n");
    fs::remove_file(group.join("schemata")).unwrap();
    groups.remove().unwrap();
    groups.remove().unwrap();
    assert!(!group.exists());
}

/// "the runtime has not created the sub-directory, the runtime MUST NOT remove" it.
#[test]
fn a_group_that_was_there_stays() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("c1")).unwrap();
    let groups = prepared(root.path(), "{}").unwrap();
    assert_eq!(groups.owned, Vec::<PathBuf>::new());
    assert_eq!(schemata(&root.path().join("c1")), "");
}

/// "schemata … must be written last, after the values from l3CacheSchema and memBwSchema".
#[test]
fn a_named_class_is_made_set_and_left() {
    let root = tempfile::tempdir().unwrap();
    let json = r#"{"closID":"gold","schemata":["L2:0=f","MB:0=70"],"l3CacheSchema":"L3:0=7f0"}"#;
    let groups = prepared(root.path(), json).unwrap();
    let group = root.path().join("gold");
    assert_eq!(groups, Groups { joined: vec![group.clone()], owned: vec![] });
    assert_eq!(schemata(&group), "L3:0=7f0\nL2:0=f\nMB:0=70\n");
}

/// "runtime MUST check if corresponding pre-configured directory closID is present … and generate an error if
/// directory does not exist."
#[test]
fn a_named_class_without_a_schema_must_exist() {
    let root = tempfile::tempdir().unwrap();
    let e = prepared(root.path(), r#"{"closID":"gold"}"#).unwrap_err();
    assert!(e.starts_with("linux.intelRdt.closID: there is no ") && e.contains("make it first"), "{e}");
    fs::create_dir(root.path().join("gold")).unwrap();
    assert!(prepared(root.path(), r#"{"closID":"gold"}"#).unwrap().owned.is_empty());
    assert!(!root.path().join("gold/schemata").exists());
}

/// "value / means that the container MUST be assigned to the default CLOS (the root of the resctrl filesystem)."
#[test]
fn the_default_class_is_the_root() {
    let root = tempfile::tempdir().unwrap();
    let groups = prepared(root.path(), r#"{"closID":"/"}"#).unwrap();
    assert_eq!(groups, Groups { joined: vec![root.path().into()], owned: vec![] });
}

/// "if closID directory … exists, runtimes MUST compare … and generate an error if doesn't match."
#[test]
fn an_existing_class_must_agree_in_value_not_in_spelling() {
    let root = tempfile::tempdir().unwrap();
    let group = root.path().join("gold");
    fs::create_dir(&group).unwrap();
    let there = "    MB:0=100;1= 90\n    L3:0=0007f0;1=0001f\n";
    fs::write(group.join("schemata"), there).unwrap();
    let e = prepared(root.path(), r#"{"closID":"gold","l3CacheSchema":"L3:0=7f0;1=ff"}"#).unwrap_err();
    assert!(e.contains("for L3:1") && e.contains("another closID"), "{e}");
    assert_eq!(schemata(&group), there);
    prepared(root.path(), r#"{"closID":"gold","l3CacheSchema":"L3:1=1F","memBwSchema":"MB:1=90"}"#).unwrap();
}

/// "the runtime MUST create a dedicated MON group … mon_groups/<container-id>/ subdirectory under the top-level
/// CTRL_MON group … The runtime MUST delete the MON group after the container is deleted."
#[test]
fn monitoring_has_a_group_of_its_own_which_goes_first() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("gold/mon_groups")).unwrap();
    let groups = prepared(root.path(), r#"{"closID":"gold","enableMonitoring":true}"#).unwrap();
    let monitor = root.path().join("gold/mon_groups/c1");
    assert_eq!(groups.joined, [root.path().join("gold"), monitor.clone()]);
    assert_eq!(groups.owned, std::slice::from_ref(&monitor));
    groups.remove().unwrap();
    assert!(!monitor.exists() && root.path().join("gold").exists());
}

#[test]
fn what_the_kernel_says_about_a_failure_is_told() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("info")).unwrap();
    fs::write(root.path().join("info/last_cmd_status"), "Out of CLOSIDs\n").unwrap();
    let e = prepared(root.path(), r#"{"closID":"gold","enableMonitoring":true,"schemata":["L3:0=1"]}"#)
        .unwrap_err();
    assert!(e.contains("mon_groups/c1") && e.ends_with("Out of CLOSIDs"), "{e}");
}

/// The processes' side: `tasks` takes `0` for the writer, so opening it is all that the shim does.
#[test]
fn every_joined_group_has_its_tasks_opened() {
    let root = tempfile::tempdir().unwrap();
    let groups = prepared(root.path(), "{}").unwrap();
    assert!(groups.tasks().unwrap_err().to_string().contains("c1/tasks"));
    fs::write(root.path().join("c1/tasks"), "").unwrap();
    assert_eq!(groups.tasks().unwrap().len(), 1);
}
