//! What an exec'd process sees of itself, ours and runc's side by side; and what it and init see with a seccomp profile
//! and in a user namespace.

use crate::api_view::{MOUNTS, Who, of};
use crate::needs;
use crate::needs_containers;
use crate::support::bundle::Bundle;
use crate::support::differences;
use crate::support::fifo::Sink;
use crate::support::shim::{Host, Stdio3};
use crate::support::subject::{Subject, ours};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Init,
    Exec,
}

/// A bundle, changed, and the exec'd process made from its own.
struct Case<'a> {
    which: Which,
    bundle: &'a dyn Fn(&mut Bundle),
    process: &'a dyn Fn(&mut Value),
    /// Listed differences, and how their lines begin or end.
    aside: &'a [(&'a str, &'a str)],
}

impl Case<'_> {
    /// What the process says under one shim or the other.
    fn under(&self, subject: Subject) -> String {
        let host = Host::of(subject);
        // A mapped root has no rights in a folder that is closed to all but the real one.
        fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let out = Sink::new(host.folder().join("out"));
        let all = format!("exec 2>&1; {}", everything());
        let script = if self.which == Which::Init { &all } else { "exec sleep 1000" };
        let mut bundle = host.bundle("a", script);
        (self.bundle)(&mut bundle);
        let mut process = bundle.process(&["sh", "-c", &all]);
        (self.process)(&mut process);
        let terminal = process["terminal"] == true;
        if self.which == Which::Exec {
            bundle.set("/process/terminal", json!(false));
        }
        // A fifo of its own, to which nothing is written: the Go shim opens both one after the other.
        let err = (!terminal).then(|| Sink::new(host.folder().join("err")));
        let stderr = err.as_ref().map(Sink::uri).unwrap_or_default();
        let stdio = Stdio3 { terminal, stdout: out.uri(), stderr, ..Default::default() };
        let shim = host.start(bundle);
        let exec = match self.which {
            Which::Init => {
                shim.run_with(&stdio);
                ""
            }
            Which::Exec => {
                shim.run();
                shim.exec_process("e", &process, &stdio).expect("Exec");
                shim.start("e").expect("Start");
                "e"
            }
        };
        shim.wait(exec).expect("Wait");
        shim.delete(exec).expect("Delete");
        assert_eq!(err.map(Sink::finish).unwrap_or_default(), "");
        let mut text = out.finish();
        let racy = (self.which == Which::Exec).then_some(&("open files of an exec", "Max open files"));
        for (name, part) in self.aside.iter().chain(racy) {
            text = differences::without(name, part, &text);
        }
        text.replace(host.folder().to_str().expect("text"), "HOST").replace(&host.namespace, "NAMESPACE")
    }

    #[track_caller]
    fn assert_same(&self) {
        let [ours, runc] = [Subject::Ours, Subject::Runc].map(|subject| self.under(subject));
        let only = |of: &str, other: &str| {
            of.lines().filter(|line| !other.lines().any(|same| same == *line)).collect::<Vec<_>>().join("\n")
        };
        assert!(
            ours == runc,
            "{:?}; ours only:\n{}\nrunc only:\n{}\nall of ours:\n{ours}",
            self.which,
            only(&ours, &runc),
            only(&runc, &ours)
        );
        // Each part said something: a script that stops in the middle compares well with itself.
        for part in [
            "CapBnd:",
            "Seccomp:",
            "leads its session",
            "/ rw,relatime",
            "Max file locks",
            "PATH=",
            "uid_map 0",
            "end",
        ] {
            assert!(ours.contains(part), "{part:?} is not in {ours}");
        }
    }
}

/// status, mountinfo, limits, environment, id maps, descriptors and the rest, each on lines that do not differ from run to
/// run. Not the numbers of processes: runc has had a few in between.
fn everything() -> String {
    let status = "grep -E '^(Umask|Uid|Gid|Groups|SigPnd|SigBlk|SigCgt|ShdPnd|Cap|NoNewPrivs|Seccomp|THP)' /proc/self/status";
    let session = r#"[ "$(cut -d' ' -f6 /proc/$$/stat)" = $$ ] && echo leads its session"#;
    let limits = "grep -v 'processes\\|pending' /proc/self/limits";
    let maps = "for map in uid_map gid_map setgroups; do echo $map $(cat /proc/self/$map); done";
    let streams = "ls /proc/self/fd; tty; stty size; stat -L -c '%F %a %u' /dev/stdin /dev/stdout";
    let rest = "env | sort; pwd; id; hostname; cat /proc/self/oom_score_adj /proc/self/comm; ls -l /proc/self/ns | wc -l; ls -ln /dev | awk '{ print $1, $3, $4, $NF }'; ls /proc/sys/kernel | wc -l";
    format!("{status}; {session}; {MOUNTS}; {limits}; {maps}; {streams}; {rest}; echo end")
}

fn unchanged(_: &mut Value) {}

/// The profile that containerd's clients bring by default, beside what the process has already.
fn with_seccomp(bundle: &mut Bundle) {
    let text = include_str!("../specs/container-seccomp-default.json");
    let spec: Value = serde_json::from_str(text).expect("a spec");
    bundle.set("/linux/seccomp", spec["linux"]["seccomp"].clone());
}

fn in_user_namespace(bundle: &mut Bundle) {
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
}

/// Seen to fail without `Setsid`, `Bounding` and `Umask` in an exec's plan.
#[test]
fn execd_process_sees_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    for who in [Who::Root, Who::User, Who::Privileged] {
        Case { which: Which::Exec, bundle: &|b| of(who, false, b), process: &unchanged, aside: &[] }
            .assert_same();
    }
}

#[test]
fn execd_process_with_a_terminal_sees_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    for who in [Who::Root, Who::User] {
        Case { which: Which::Exec, bundle: &|b| of(who, true, b), process: &unchanged, aside: &[] }
            .assert_same();
    }
}

/// An exec'd process has a spec of its own, and what that leaves out is not init's in every case.
#[test]
fn execd_process_with_other_wishes_than_init_sees_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let other = |process: &mut Value| {
        process["user"] = json!({"uid": 1000, "gid": 7, "additionalGids": [50, 8], "umask": 0o27});
        process["cwd"] = json!("/tmp");
        process["env"] = json!(["PATH=/bin", "A=1", "A=2", "HOME=/elsewhere"]);
        process["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"],
            "effective": ["CAP_NET_RAW"], "inheritable": ["CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"]});
        process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]);
    };
    let less = |process: &mut Value| {
        let old = process.as_object_mut().expect("an object");
        old.retain(|key, _| !["capabilities", "rlimits", "noNewPrivileges"].contains(&key.as_str()));
    };
    let umask: &[_] = &[("umask of an exec", "Umask:")];
    for (process, aside) in [(&other as &dyn Fn(&mut Value), umask), (&less, &[])] {
        Case { which: Which::Exec, bundle: &|b| of(Who::Root, false, b), process, aside }.assert_same();
    }
}

/// Seen to fail with an exec'd process that is given no filter.
#[test]
fn processes_under_seccomp_see_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    for which in [Which::Init, Which::Exec] {
        for (who, privileges) in [(Who::Root, false), (Who::User, true), (Who::User, false)] {
            let bundle = |b: &mut Bundle| {
                of(who, false, b);
                with_seccomp(b);
                b.set("/process/noNewPrivileges", json!(!privileges));
            };
            Case { which, bundle: &bundle, process: &unchanged, aside: &[] }.assert_same();
        }
    }
}

/// Seen to fail with an exec'd process that does not join the user namespace.
#[test]
fn processes_in_a_user_namespace_see_the_same() {
    needs_containers!();
    needs!(ours(), "the comparison is with runc");
    let aside: &[_] = &[
        ("owner of the streams in a user namespace", "fifo 600 "),
        ("owner of /dev/mqueue in a user namespace", " mqueue"),
    ];
    for which in [Which::Init, Which::Exec] {
        for who in [Who::Root, Who::User] {
            let bundle = |b: &mut Bundle| {
                of(who, false, b);
                in_user_namespace(b);
                if let Who::User = who {
                    with_seccomp(b);
                }
            };
            Case { which, bundle: &bundle, process: &unchanged, aside }.assert_same();
        }
    }
}
