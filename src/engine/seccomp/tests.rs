//! Profiles and what their programs answer, judged by `judge`.

use oci_spec::runtime::Spec;

use super::judge::{ALLOW, Data, ENOSYS, Reference, assert_like_reference, run};
use super::*;

const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

fn fixture(name: &str) -> LinuxSeccomp {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs").join(name);
    let spec: Spec = serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("a spec");
    spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()).expect("a profile")
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).expect("a profile")
}

fn ask(profile: &LinuxSeccomp, arch: Arch, name: &str, args: [u64; 6]) -> u32 {
    let native = if matches!(arch, Arch::Aarch64 | Arch::Arm) { Arch::Aarch64 } else { Arch::X86_64 };
    let number = table::number(arch, name).expect("a known call");
    run(&program(profile, native).expect("compiles"), &Data { number, audit: arch.audit(), args })
}

#[test]
fn a_profile_of_many_comparisons_is_not_quick() {
    let group = r#"{"names": ["read", "write"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}"#;
    let of = |groups: usize| {
        let groups = vec![group; groups].join(",");
        profile(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{groups}]}}"#))
    };
    assert!(InMaking::new(fixture("container-seccomp-default.json")).is_quick());
    assert!(InMaking::new(of(1000)).is_quick() && !InMaking::new(of(1001)).is_quick());
}

#[test]
fn a_filter_in_making_is_compiled_once() {
    let filter = InMaking::new(profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#));
    let of_others: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| filter.compiled().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(of_others.iter().all(|other| Arc::ptr_eq(other, &filter.compiled().unwrap())));
}

#[test]
fn containerds_default_profile_means_what_it_says_for_every_call() {
    let profile = fixture("container-seccomp-default.json");
    assert_like_reference(&profile, Arch::X86_64);
    assert_like_reference(&profile, Arch::Aarch64);
    assert_like_reference(&fixture("container-seccomp-small.json"), Arch::X86_64);
}

#[test]
fn containerds_default_profile_stays_short() {
    let profile = fixture("container-seccomp-default.json");
    let length = program(&profile, Arch::X86_64).expect("compiles").len();
    assert!(length <= 310, "{length} instructions for three architectures");
}

#[test]
fn every_operator_compares_64_bits() {
    for op in ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] {
        for value in [0, 5, 0xffff_ffff, 1 << 32, (5 << 32) + 7, u64::MAX] {
            for two in [0, value, value & 0xff, value & !0xffff_ffff] {
                let json = format!(
                    r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],
                    "syscalls":[{{"names":["mknod"],"action":"SCMP_ACT_TRAP","args":[
                    {{"index":2,"op":"SCMP_CMP_{op}","value":{value},"valueTwo":{two}}}]}}]}}"#
                );
                assert_like_reference(&self::profile(&json), Arch::X86_64);
            }
        }
    }
}

#[test]
fn arguments_are_anded_rules_are_ored() {
    let profile = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["clone","fsync"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":1,"op":"SCMP_CMP_EQ","value":3},{"index":0,"op":"SCMP_CMP_GT","value":4294967300}]},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":4,"op":"SCMP_CMP_NE","value":0}]}]}"#,
    );
    assert_like_reference(&profile, Arch::X86_64);
    let ask = |args| ask(&profile, Arch::X86_64, "clone", args);
    assert_eq!(ask([4_294_967_301, 3, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask([4_294_967_301, 4, 0, 0, 0, 0]), EPERM);
    assert_eq!(ask([0, 4, 0, 0, 1, 0]), ALLOW);
}

#[test]
fn an_argument_named_twice_makes_alternatives() {
    let profile = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"op":"SCMP_CMP_EQ","value":0},{"index":0,"op":"SCMP_CMP_EQ","value":8}]}]}"#,
    );
    assert_like_reference(&profile, Arch::X86_64);
    assert_eq!(ask(&profile, Arch::X86_64, "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_rule_without_arguments_beats_those_with() {
    for (first, second) in [(r#","args":[{"index":0,"op":"SCMP_CMP_EQ","value":1}]"#, ""), ("", "")] {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {{"names":["kill"],"action":"SCMP_ACT_TRAP"{first}}},
            {{"names":["kill"],"action":"SCMP_ACT_ERRNO","errnoRet":13{second}}}]}}"#
        );
        let profile = profile(&json);
        assert_like_reference(&profile, Arch::X86_64);
        let expected = if first.is_empty() { libc::SECCOMP_RET_TRAP } else { 0x0005_000d };
        assert_eq!(ask(&profile, Arch::X86_64, "kill", [1, 0, 0, 0, 0, 0]), expected);
    }
}

#[test]
fn a_foreign_architecture_is_killed() {
    let profile = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let filter = program(&profile, Arch::X86_64).expect("compiles");
    let verdict = |audit, number| run(&filter, &Data { number, audit, args: [0; 6] });
    assert_eq!(verdict(Arch::X86_64.audit(), 0), ALLOW);
    assert_eq!(verdict(Arch::X86.audit(), 0), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(verdict(Arch::X86_64.audit(), 0x4000_0001), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(verdict(Arch::X86_64.audit(), u32::MAX), ALLOW, "a tracer skips a call with -1");
}

#[test]
fn a_call_newer_than_the_profile_answers_enosys() {
    let json = |default| {
        format!(
            r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86"],"syscalls":[
            {{"names":["read","clone3","not_a_call"],"action":"SCMP_ACT_TRACE"}}]}}"#
        )
    };
    let strict = profile(&json("SCMP_ACT_ERRNO"));
    assert_like_reference(&strict, Arch::X86_64);
    assert_eq!(ask(&strict, Arch::X86_64, "close_range", [0; 6]), ENOSYS);
    assert_eq!(ask(&strict, Arch::X86, "close_range", [0; 6]), ENOSYS);
    assert_eq!(ask(&strict, Arch::X86_64, "write", [0; 6]), EPERM);
    assert_eq!(ask(&profile(&json("SCMP_ACT_ALLOW")), Arch::X86_64, "close_range", [0; 6]), ALLOW);
}

#[test]
fn socketcall_and_ipc_are_no_way_around_a_rule() {
    let profile = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[
        {"names":["connect","semop"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(ask(&profile, Arch::X86, "connect", [0; 6]), EPERM);
    assert_eq!(ask(&profile, Arch::X86, "socketcall", [3, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(ask(&profile, Arch::X86, "socketcall", [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask(&profile, Arch::X86, "ipc", [1, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn what_is_said_first_holds_behind_socketcall_too() {
    let of = |default: &str, groups: &str| {
        let rest = r#""architectures":["SCMP_ARCH_X86"]"#;
        profile(&format!(r#"{{"defaultAction":"{default}",{rest},"syscalls":[{groups}]}}"#))
    };
    let connect =
        |profile: &LinuxSeccomp, argument| ask(profile, Arch::X86, "socketcall", [3, argument, 0, 0, 0, 0]);
    let trap =
        r#"{"names":["connect"],"action":"SCMP_ACT_TRAP","args":[{"index":1,"op":"SCMP_CMP_EQ","value":7}]}"#;
    let (allow, refuse) = (
        r#"{"names":["connect"],"action":"SCMP_ACT_ALLOW"}"#,
        r#"{"names":["connect"],"action":"SCMP_ACT_ERRNO"}"#,
    );
    let mixed = of("SCMP_ACT_ALLOW", &[trap, allow, refuse].join(","));
    assert_eq!((connect(&mixed, 7), connect(&mixed, 8)), (libc::SECCOMP_RET_TRAP, EPERM));
    assert_eq!(ask(&mixed, Arch::X86, "socketcall", [2, 7, 0, 0, 0, 0]), ALLOW);
    assert_eq!(
        ask(&mixed, Arch::X86, "connect", [0, 7, 0, 0, 0, 0]),
        EPERM,
        "without arguments it decides alone"
    );
    let other_way = of("SCMP_ACT_ALLOW", &[refuse, trap].join(","));
    assert_eq!((connect(&other_way, 7), connect(&other_way, 8)), (EPERM, EPERM));
    // The multiplexer itself, named before or behind.
    let whole = r#"{"names":["socketcall"],"action":"SCMP_ACT_ALLOW"}"#;
    for groups in [[whole, trap], [trap, whole]] {
        let both = of("SCMP_ACT_ERRNO", &groups.join(","));
        assert_eq!((connect(&both, 7), connect(&both, 8)), (ALLOW, ALLOW));
    }
    // Its first argument is the function, of which the rule says nothing.
    let first = trap.replace(r#""index":1"#, r#""index":0"#);
    assert_eq!(connect(&of("SCMP_ACT_ALLOW", &first), 8), libc::SECCOMP_RET_TRAP);
}

#[test]
fn jumps_reach_over_any_distance() {
    let rules: Vec<_> = table::names()
        .enumerate()
        .map(|(at, name)| {
            format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{at},"args":[
                {{"index":{},"op":"SCMP_CMP_EQ","value":{at}}}]}}"#,
                at % 6
            )
        })
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_ARM"],"syscalls":[{}]}}"#,
        rules.join(",")
    );
    let profile = profile(&json);
    let filter = program(&profile, Arch::Aarch64).expect("fits");
    assert!(filter.len() > 2000);
    for arch in [Arch::Aarch64, Arch::Arm] {
        let reference = Reference::new(&profile, arch);
        for (at, name) in table::names().enumerate() {
            let Some(number) = table::number(arch, name) else { continue };
            for args in [[at as u64; 6], [u64::MAX; 6]] {
                let verdict = run(&filter, &Data { number, audit: arch.audit(), args });
                assert_eq!(verdict, reference.verdict(number, &args), "{arch:?} {name}");
            }
        }
    }
    let both = json.replace("SCMP_ARCH_ARM", "SCMP_ARCH_X86\",\"SCMP_ARCH_X32");
    assert!(matches!(program(&self::profile(&both), Arch::X86_64), Err(Error::TooLong { .. })));
}

#[test]
fn an_argument_that_does_not_exist_is_refused_with_its_path() {
    let profile = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG",
        "args":[{"index":6,"op":"SCMP_CMP_EQ","value":0}]}]}"#,
    );
    let text = compile(&profile).expect_err("refused").to_string();
    assert!(text.starts_with("linux.seccomp.syscalls[0].args[0].index 6"), "{text}");
}

#[test]
fn flags_are_runcs() {
    let flags = |rest: &str| flags(&profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{rest}}}"#)));
    assert_eq!(flags(""), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
    assert_eq!(flags(r#","flags":[]"#), 0);
    assert_eq!(flags(r#","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG"]"#), 2);
    let notify = r#","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
    let wait = r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    assert_eq!(flags(wait), 0);
    assert_eq!(flags(&format!("{wait}{notify}")), 32 + 8);
}
