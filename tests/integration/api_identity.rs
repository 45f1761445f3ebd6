//! What a process is and may do: limits, umask, names, keyring, groups, capabilities; of init and of exec'd processes.

use crate::needs_containers;
use crate::support::differences::runc_differs;
use crate::support::fifo::Sink;
use crate::support::run::{exec_output, output};
use crate::support::shim::{Host, any};
use crate::support::subject::{ours, peer_lacks, unique};
use crate::support::{SOON, eventually};
use protobuf::Message;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// "rlim.rlim_cur MUST match the configured value." "rlim.rlim_max MUST match the configured value." (config.md,
/// "POSIX process") Every type that setrlimit(2) knows. Lowered only, which takes no privilege.
#[test]
fn every_rlimit_is_set() {
    needs_containers!();
    let limits = [
        ("RLIMIT_CPU", "Max cpu time", 1000_u64, 2000_u64),
        ("RLIMIT_FSIZE", "Max file size", 1 << 30, 1 << 31),
        ("RLIMIT_DATA", "Max data size", 1 << 32, 1 << 33),
        ("RLIMIT_STACK", "Max stack size", 1 << 22, 1 << 23),
        ("RLIMIT_CORE", "Max core file size", 0, 4096),
        ("RLIMIT_RSS", "Max resident set", 1 << 34, 1 << 35),
        ("RLIMIT_NPROC", "Max processes", 500, 1000),
        ("RLIMIT_NOFILE", "Max open files", 100, 200),
        ("RLIMIT_MEMLOCK", "Max locked memory", 4096, 8192),
        ("RLIMIT_AS", "Max address space", 1 << 34, 1 << 35),
        ("RLIMIT_LOCKS", "Max file locks", 50, 60),
        ("RLIMIT_SIGPENDING", "Max pending signals", 70, 80),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size", 4096, 8192),
        ("RLIMIT_NICE", "Max nice priority", 0, 0),
        ("RLIMIT_RTPRIO", "Max realtime priority", 0, 0),
        ("RLIMIT_RTTIME", "Max realtime timeout", 1000, 2000),
    ];
    let rlimits: Vec<Value> = limits
        .iter()
        .map(|(kind, _, soft, hard)| json!({"type": kind, "soft": soft, "hard": hard}))
        .collect();
    let text = output("cat /proc/self/limits", |bundle, _| bundle.set("/process/rlimits", json!(rlimits)));
    for (kind, name, soft, hard) in limits {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        let words: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(words, [soft.to_string(), hard.to_string()], "{kind}");
    }
}

/// "rlimits: allows setting resource limits for the process." (config.md, "POSIX process") An exec has its own; where
/// it names none, as in runc, none are set: init's are not its own.
#[test]
fn exec_has_its_own_rlimits() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 111, "hard": 222}]));
    let shim = host.start(bundle);
    shim.run();
    let script = "ulimit -Sn; ulimit -Hn";
    assert_eq!(exec_output(&shim, script, |_| ()), "111\n222\n");
    let own = exec_output(&shim, script, |process| {
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    });
    assert_eq!(own, "55\n66\n");
    let none = exec_output(&shim, script, |process| process["rlimits"] = json!([]));
    let limits = fs::read_to_string(format!("/proc/{}/limits", shim.pid)).expect("the shim's limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let of_shim: Vec<_> = line["Max open files".len()..].split_whitespace().take(2).collect();
    assert_eq!(none.split_whitespace().collect::<Vec<_>>(), of_shim);
}

/// "If rlimits contains duplicated entries with same type, the runtime MUST generate an error." (config.md, "POSIX
/// process")
#[test]
fn duplicated_rlimit_is_refused() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "true");
    bundle.push("/process/rlimits", json!({"type": "RLIMIT_NOFILE", "soft": 5, "hard": 5}));
    let shim = host.start(bundle);
    let failure = shim.create().expect_err("refused");
    assert!(!ours() || failure.message.contains("process.rlimits[1] sets RLIMIT_NOFILE"), "{failure:?}");
}

/// "umask: specifies the umask of the user." (config.md, "POSIX-platform User")
#[test]
fn umask_is_the_users_and_an_exec_inherits_it() {
    needs_containers!();
    assert_eq!(output("umask", |_, _| ()), "0022\n");
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/process/user/umask", json!(0o027));
    let shim = host.start(bundle);
    let init = shim.run();
    let status = fs::read_to_string(format!("/proc/{init}/status")).expect("init lives");
    assert!(status.contains("Umask:\t0027"), "{status}");
    if !peer_lacks(1, 2) {
        let inherited = exec_output(&shim, "umask", |process| process["user"] = json!({"uid": 0, "gid": 0}));
        assert_eq!(inherited, "0027\n");
    }
}

/// "hostname: specifies the container's hostname as seen by processes running inside the container." (config.md,
/// "Hostname") "domainname: specifies the container's domainname as seen by processes running inside the container."
/// (config.md, "Domainname")
#[test]
fn host_and_domain_name_are_the_containers() {
    needs_containers!();
    let before = fs::read_to_string("/proc/sys/kernel/domainname").expect("the host's");
    let text = output("hostname; cat /proc/sys/kernel/domainname", |bundle, _| {
        bundle.set("/hostname", json!("inner"));
        bundle.set("/domainname", json!("example.org"));
    });
    assert_eq!(text, if ours() { "inner\nexample.org\n".to_string() } else { text.clone() });
    assert_eq!(fs::read_to_string("/proc/sys/kernel/domainname").expect("the host's"), before);
}

/// "If oomScoreAdj is set, the runtime MUST set oom_score_adj to the given value. If oomScoreAdj is not set, the
/// runtime MUST NOT change the value of oom_score_adj." (config.md, "Linux Process")
#[test]
fn oom_score_adjustment_is_set_or_left_alone() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    bundle.set("/process/oomScoreAdj", json!(400));
    let shim = host.start(bundle);
    let of = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it lives").trim().to_string()
    };
    assert_eq!(of(shim.run()), "400");
    let script = "cat /proc/self/oom_score_adj";
    if !runc_differs("oom score of an exec") {
        let own = exec_output(&shim, script, |process| process["oomScoreAdj"] = json!(600));
        assert_eq!(own, "600\n");
    }
    let second = host.start(host.bundle("b", "sleep 1000"));
    assert_eq!(of(second.run()), of(second.pid as u32));
}

/// A session keyring for each container, named after it, which its execs join; the shim's with NoNewKeyring.
#[test]
fn session_keyring_is_the_containers_and_its_execs_join_it() {
    needs_containers!();
    if fs::metadata("/proc/keys").is_err() {
        crate::needs!(false, "this kernel has no keyrings");
    }
    let host = Host::new();
    // /proc/keys shows the keyrings of every container of the same user: the name is this one's alone.
    let id = unique("ring");
    let script = format!("grep -o '^[0-9a-f]* .*_ses[.]{id}:' /proc/keys | sed 's/ .*//'");
    let mut bundle = host.bundle(&id, "sleep 1000");
    bundle.set("/linux/maskedPaths", json!([]));
    let shim = host.start(bundle);
    shim.run();
    let seen: Vec<String> = (0..3).map(|_| exec_output(&shim, &script, |_| ())).collect();
    assert!(seen[0].lines().count() == 1 && seen[1..].iter().all(|text| *text == seen[0]), "{seen:?}");

    let options = containerd_shim_protos::shim::oci::Options { no_new_keyring: true, ..Default::default() };
    let options = any("containerd.runc.v1.Options", options.write_to_bytes().expect("encode"));
    let id = unique("none");
    let mut bundle = host.bundle(&id, "sleep 1000");
    bundle.set("/linux/maskedPaths", json!([]));
    let shim = host.start_with(bundle, Some(options));
    shim.run();
    let text = exec_output(&shim, "cat /proc/keys", |_| ());
    assert!(!text.contains(&id), "{text}");
}

/// "uid: specifies the user ID in the container namespace." "gid: specifies the group ID in the container namespace."
/// "additionalGids: specifies additional group IDs in the container namespace to be added to the process."
/// (config.md, "POSIX-platform User") An exec has its own.
#[test]
fn exec_has_its_own_user_and_groups() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let text = exec_output(&shim, "id -u; id -g; id -G; echo $HOME", |process| {
        process["user"] = json!({"uid": 1000, "gid": 50, "additionalGids": [7, 8]});
    });
    assert_eq!(text, "1000\n50\n50 7 8\n/home/app\n");
}

/// The passwd file that counts is the one that the container sees; whoever is not in it is at home in `/`.
#[test]
fn home_is_where_the_containers_passwd_file_says() {
    needs_containers!();
    let host = Host::new();
    let passwd = host.folder().join("passwd");
    fs::write(&passwd, "root:x:0:0::/elsewhere:/bin/sh\napp:x:1000:1000::/srv/app").expect("write passwd");
    let over = |source: &Path| json!({"destination": "/etc/passwd", "type": "bind", "source": source, "options": ["bind"]});
    let mut bundle = host.bundle("a", "echo $HOME >/out; sleep 1000");
    bundle.push("/mounts", over(&passwd));
    let shim = host.start(bundle);
    shim.run();
    let home = |uid: u32, env: Value| {
        exec_output(&shim, "echo $HOME; env | grep -c ^HOME=", |process| {
            process["user"] = json!({"uid": uid, "gid": 0});
            process["env"] = env.clone();
        })
    };
    let of_init = eventually("init tells its home", SOON, || {
        Some(exec_output(&shim, "cat /out || :", |_| ())).filter(|text| text.ends_with('\n'))
    });
    assert_eq!(of_init, "/elsewhere\n");
    assert_eq!(home(0, json!(["PATH=/bin"])), "/elsewhere\n1\n");
    assert_eq!(home(1000, json!(["PATH=/bin", "HOME="])), "/srv/app\n1\n");
    assert_eq!(home(7, json!(["PATH=/bin"])), "/\n1\n");
    assert_eq!(home(0, json!(["PATH=/bin", "HOME=/given"])), "/given\n1\n");
    let few = exec_output(&shim, "echo $HOME", |process| {
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 8, "hard": 8}]);
    });
    assert_eq!(few, "/elsewhere\n", "with few descriptors");
    if ours() {
        // runc waits for somebody to write.
        let fifo = host.folder().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("run mkfifo").success());
        let text = output("echo $HOME", |bundle, _| bundle.push("/mounts", over(&fifo)));
        assert_eq!(text, "/\n");
    }
}

const SETS: &str = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";

/// "effective: the effective field is an array of effective capabilities that are kept for the process", and so on
/// for bounding, inheritable, permitted and ambient. "setting noNewPrivileges to true prevents the process from
/// gaining additional privileges." (config.md, "Linux Process") Of an exec as of init.
#[test]
fn exec_has_its_own_capabilities() {
    needs_containers!();
    let host = Host::new();
    let shim = host.start(host.bundle("a", "sleep 1000"));
    shim.run();
    let own = exec_output(&shim, SETS, |process| {
        process["noNewPrivileges"] = json!(false);
        process["user"] = json!({"uid": 1000, "gid": 1000});
        let one = ["CAP_NET_BIND_SERVICE"];
        process["capabilities"] = json!({
            "bounding": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"], "effective": one, "permitted": one,
            "inheritable": one, "ambient": one,
        });
    });
    // CAP_NET_BIND_SERVICE is number 10, CAP_CHOWN is 0.
    for line in [
        "CapInh:\t0000000000000400",
        "CapPrm:\t0000000000000400",
        "CapEff:\t0000000000000400",
        "CapBnd:\t0000000000000401",
        "CapAmb:\t0000000000000400",
        "NoNewPrivs:\t0",
    ] {
        assert!(own.contains(line), "{line}: {own}");
    }
    let inherited = exec_output(&shim, SETS, |process| {
        let process = process.as_object_mut().expect("an object");
        process.remove("capabilities");
        process.remove("noNewPrivileges");
    });
    let init =
        fs::read_to_string(format!("/proc/{}/status", shim.pids().expect("Pids")[0].pid)).expect("init");
    for line in init.lines().filter(|line| line.starts_with("Cap")) {
        assert!(inherited.contains(line), "{line}: {inherited}");
    }
    // Clients leave it out when it is false.
    assert!(inherited.contains("NoNewPrivs:\t0") && init.contains("NoNewPrivs:\t1"), "{inherited}");
}

/// "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be logged as
/// a warning by the runtime." (config.md, "Linux Process")
#[test]
fn unknown_capabilities_are_left_out() {
    needs_containers!();
    let text = output("grep CapEff /proc/self/status", |bundle, _| {
        for set in ["bounding", "effective", "permitted"] {
            bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_CHOWN", "CAP_FLY"]));
        }
    });
    assert_eq!(text, "CapEff:\t0000000000000001\n");
}

/// "Runtimes MAY log unknown properties but MUST otherwise ignore them." (config.md, "Extensibility") "Any value which
/// cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be logged as a warning by the
/// runtime." (config.md, "Linux Process") The log has one line for each kind, for init and for an exec.
#[test]
fn unknown_properties_are_ignored_everywhere() {
    needs_containers!();
    let host = Host::new();
    let mut bundle = host.bundle("a", "sleep 1000");
    let log = Sink::new(bundle.folder.join("log"));
    let places = ["", "/process", "/process/user", "/root", "/linux", "/linux/resources", "/mounts/0"];
    for at in places {
        bundle.set(&format!("{at}/novelty"), json!({"of": [1, 2]}));
    }
    bundle.set("/process/capabilities/bounding", json!(["CAP_CHOWN", "CAP_FLY"]));
    let shim = host.start(bundle);
    shim.run();
    let text = exec_output(&shim, "echo well", |process| {
        process["user"]["surprise"] = json!(1);
        process["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_SWIM"]);
    });
    assert_eq!(text, "well\n");
    if !ours() {
        return;
    }
    let line = |start: &str, word: &str| {
        log.wait_for(word);
        let text = log.so_far();
        let told = |line: &&str| line.contains(start) && line.contains(word);
        let lines: Vec<_> = text.lines().filter(told).map(str::to_owned).collect();
        assert!(lines.len() == 1 && lines[0].contains("level=warn"), "{text}");
        lines[0].clone()
    };
    line("container a: process.capabilities: ignored the unknown capability", "CAP_FLY");
    line(" in a: capabilities: ignored the unknown capability", "CAP_SWIM");
    line(" in a: ignored unknown fields: ", "user.surprise");
    let told = line("container a: ignored unknown fields: ", "novelty");
    for at in places {
        let name = format!("{at}/novelty").trim_start_matches('/').replace("/0", "[0]").replace('/', ".");
        assert!(told.contains(&name), "{name}: {told}");
    }
}

/// "The Open Container Initiative Runtime Specification follows semantic versioning and retains forward and backward
/// compatibility within major versions." (config.md, "Specification version") Another major version is not
/// compatible.
#[test]
fn specs_of_every_version_of_the_first_generation_are_accepted() {
    needs_containers!();
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0-rc.1", "1.2.1", "1.3.0", "1.3.1+build"] {
        let text = output("echo well", |bundle, _| bundle.set("/ociVersion", json!(version)));
        assert_eq!(text, "well\n", "{version}");
    }
    for version in ["2.0.0", "0.9.0", "one"] {
        let host = Host::new();
        let mut bundle = host.bundle("a", "true");
        bundle.set("/ociVersion", json!(version));
        if ours() {
            let shim = host.start(bundle);
            let failure = shim.create().expect_err("another generation");
            assert!(failure.message.contains(&format!("ociVersion `{version}`")), "{failure:?}");
        }
    }
}

/// "cwd: is the working directory that will be set for the executable." (config.md, "Process")
#[test]
fn the_working_directory_may_be_one_that_the_user_may_not_enter() {
    needs_containers!();
    let text = output("pwd; cd . 2>/dev/null || echo closed", |bundle, _| {
        let closed =
            json!({"destination": "/closed", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0700"]});
        bundle.push("/mounts", closed);
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        bundle.set("/process/capabilities", json!({}));
        bundle.set("/process/cwd", json!("/closed"));
    });
    assert_eq!(text, "/closed\nclosed\n");
}
