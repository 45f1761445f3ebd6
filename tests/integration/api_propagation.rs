//! Propagation of mounts: each test quotes the sentence of runtime-spec 1.3 that it checks.

use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::mounted::Mounted;
use crate::support::run::open_host;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::peer_lacks;
use crate::support::{SOON, eventually};
use serde_json::json;
use std::fs;
use std::path::Path;

/// What mountinfo says about the propagation of `place` in a container of `host`.
fn propagation(host: &Host, id: &str, place: &str, change: impl FnOnce(&mut Bundle)) -> Vec<String> {
    let out = Sink::new(host.folder().join(format!("out-{id}")));
    let mut bundle = host.bundle(id, &format!("grep ' {place} ' /proc/self/mountinfo"));
    change(&mut bundle);
    let shim = host.start(bundle);
    shim.run_with(&Stdio3 { stdout: out.uri(), stderr: out.uri(), ..Default::default() });
    shim.wait("").expect("Wait");
    shim.delete("").expect("Delete");
    shim.assert_nothing_left();
    let text = out.finish();
    let tags = text.split(" - ").next().expect("a mount").split(' ').skip(6);
    tags.map(|tag| tag.split(':').next().unwrap_or_default().to_owned()).collect()
}

fn volume(source: &Path, options: &[&str]) -> serde_json::Value {
    json!({"destination": "/volume", "type": "bind", "source": source, "options": options})
}

/// shared, rshared, slave, rslave, private, rprivate, unbindable, runbindable: "Bind mount propagation" (config.md,
/// "Linux mount options").
#[test]
fn binds_have_the_propagation_that_they_ask_for() {
    needs_containers!();
    let host = open_host();
    let source = host.folder().join("shared");
    let _shared = Mounted::with_propagation(&source, "--make-shared");
    let cases: [(&str, &[&str]); 9] = [
        ("bind", &["master"]),
        ("shared", &["shared", "master"]),
        ("rshared", &["shared", "master"]),
        ("slave", &["master"]),
        ("rslave", &["master"]),
        ("private", &[]),
        ("rprivate", &[]),
        ("unbindable", &["unbindable"]),
        ("runbindable", &["unbindable"]),
    ];
    for (option, tags) in cases {
        let seen = propagation(&host, &format!("c-{option}"), "/volume", |bundle| {
            bundle.push("/mounts", volume(&source, &["rbind", option]));
        });
        assert_eq!(seen, tags, "{option}");
    }
}

/// "rootfsPropagation: sets the rootfs's mount propagation. Its value is either shared, slave, private or
/// unbindable." "shared: the rootfs mount belongs to a new peer group." "slave: the rootfs mount receives propagation
/// events from the host". "private: the rootfs mount doesn't receive mount propagation events from the host".
/// "unbindable: the rootfs mount is a private mount that cannot be bind-mounted." (config-linux.md, "Rootfs Mount
/// Propagation")
#[test]
fn root_has_the_propagation_that_the_spec_asks_for() {
    needs_containers!();
    needs!(!peer_lacks(1, 4), "this runc makes the root private");
    let host = open_host();
    let _shared = Mounted::with_propagation(host.folder(), "--make-shared");
    let words = [("shared", "shared"), ("slave", "master"), ("private", ""), ("unbindable", "unbindable")];
    let judged = |word| !["slave", "unbindable"].contains(&word) || !runc_differs("slave or unbindable root");
    for (word, tag) in words.into_iter().filter(|(word, _)| judged(word)) {
        for word in [word.to_owned(), format!("r{word}")] {
            let seen = propagation(&host, &format!("c-{word}"), "/", |bundle| {
                bundle.set("/linux/rootfsPropagation", json!(word));
            });
            match tag {
                "" => assert!(seen.is_empty(), "{word}: {seen:?}"),
                _ => assert!(seen.contains(&tag.to_owned()), "{word}: {seen:?}"),
            }
        }
    }
}

/// "if something is mounted on the host it will also appear in the container) but not the other way around"
/// (config-linux.md, "Rootfs Mount Propagation"): of a volume as of the root.
#[test]
fn slave_volume_gets_the_hosts_new_mounts() {
    needs_containers!();
    let host = open_host();
    let source = host.folder().join("shared");
    let _shared = Mounted::with_propagation(&source, "--make-shared");
    let place = source.join("late");
    fs::create_dir(&place).expect("make a folder");
    let mut bundle =
        host.bundle("a", "until grep -q ' /volume/late ' /proc/self/mountinfo; do sleep 0.02; done; exit 7");
    bundle.push("/mounts", volume(&source, &["rbind", "rslave"]));
    let shim = host.start(bundle);
    shim.run();
    let _late = Mounted::tmpfs(&place);
    assert_eq!(shim.wait("").expect("Wait"), 7);
}

/// What Kubernetes calls Bidirectional: "further mounts (e.g. nested containers) will also belong to that peer group
/// and will propagate events" (config-linux.md, "Rootfs Mount Propagation").
#[test]
fn shared_volume_gives_the_host_the_containers_mounts() {
    needs_containers!();
    let host = open_host();
    let source = host.folder().join("shared");
    let _shared = Mounted::with_propagation(&source, "--make-shared");
    fs::create_dir(source.join("late")).expect("make a folder");
    let mut bundle = host.bundle("a", "mount -t tmpfs tmpfs /volume/late && sleep 1000");
    bundle.set("/linux/rootfsPropagation", json!("rshared"));
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    bundle.push("/mounts", volume(&source, &["rbind", "rshared"]));
    let shim = host.start(bundle);
    shim.run();
    let late = source.join("late");
    eventually("the container's mount is seen here", SOON, || {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        table.contains(&format!(" {} ", late.display())).then_some(())
    });
}
