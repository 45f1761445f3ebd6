//! Both dialects, and inputs that look like the other one.

use containerd_shim_protos::bootstrap_api::Extension;
use protobuf::EnumOrUnknown;

use super::*;

fn args() -> Args {
    Args { id: "c1".into(), namespace: "k8s.io".into(), address: "/run/c.sock".into(), ..Default::default() }
}

fn env() -> Environment {
    Environment { ttrpc_address: "/run/c.sock.ttrpc".into(), grpc_address: "/env.sock".into() }
}

fn any() -> Any {
    Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x48, 1], ..Default::default() }
}

fn message() -> BootstrapParams {
    BootstrapParams {
        instance_id: "c1".into(),
        namespace: "k8s.io".into(),
        log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_WARN),
        containerd_ttrpc_address: "/new.ttrpc".into(),
        containerd_grpc_address: "/new.sock".into(),
        socket_dir: Some("/run/s".into()),
        extensions: vec![Extension { value: Some(any()).into(), ..Default::default() }],
        ..Default::default()
    }
}

fn parse(input: &[u8], args: &Args) -> Request {
    Request::parse(input, args, env()).expect("valid input")
}

#[test]
fn empty_input_is_the_older_dialect() {
    let request = parse(&[], &args());
    assert_eq!(request.dialect, Dialect::Flags);
    assert_eq!(
        (request.grpc_address.as_str(), request.ttrpc_address.as_str()),
        ("/run/c.sock", "/run/c.sock.ttrpc")
    );
    assert_eq!((request.level, request.options.len()), (LevelFilter::Info, 0));
}

#[test]
fn options_alone_are_the_older_dialect() {
    let request = parse(&any().write_to_bytes().unwrap(), &args());
    assert_eq!((request.dialect, request.options), (Dialect::Flags, vec![any()]));
    // All defaults: the value is empty and only the type URL is left.
    let bare = Any { value: Vec::new(), ..any() };
    assert_eq!(parse(&bare.write_to_bytes().unwrap(), &args()).dialect, Dialect::Flags);
}

#[test]
fn an_address_missing_on_the_command_line_comes_from_the_environment() {
    let request = parse(&[], &Args { address: String::new(), ..args() });
    assert_eq!(request.grpc_address, "/env.sock");
}

#[test]
fn params_are_the_newer_dialect() {
    let request = parse(&message().write_to_bytes().unwrap(), &args());
    assert_eq!(request.dialect, Dialect::Params);
    assert_eq!((request.grpc_address.as_str(), request.ttrpc_address.as_str()), ("/new.sock", "/new.ttrpc"));
    assert_eq!(request.socket_dir, Some("/run/s".into()));
    assert_eq!((request.level, request.options), (LevelFilter::Warn, vec![any()]));
}

#[test]
fn the_debug_flag_only_ever_raises_the_level() {
    let debug = Args { debug: true, ..args() };
    assert_eq!(parse(&message().write_to_bytes().unwrap(), &debug).level, LevelFilter::Debug);
    let trace = BootstrapParams { log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_TRACE), ..message() };
    assert_eq!(parse(&trace.write_to_bytes().unwrap(), &debug).level, LevelFilter::Trace);
}

#[test]
fn params_for_another_shim_are_refused_with_both_names() {
    let other = BootstrapParams { instance_id: "c2".into(), ..message() };
    let error = Request::parse(&other.write_to_bytes().unwrap(), &args(), env()).unwrap_err().to_string();
    assert!(error.contains("k8s.io/c2") && error.contains("k8s.io/c1"), "{error}");
}

#[test]
fn garbage_is_refused() {
    assert!(matches!(Request::parse(&[0xff, 0xfe], &args(), env()), Err(BootstrapError::Garbage(_))));
}

#[test]
fn the_older_reply_is_the_bare_address() {
    assert_eq!(reply(Dialect::Flags, "unix:///run/s/x"), b"unix:///run/s/x");
}

#[test]
fn the_newer_reply_is_a_message() {
    let result = BootstrapResult::parse_from_bytes(&reply(Dialect::Params, "unix:///run/s/x")).unwrap();
    assert_eq!(
        (result.version, result.address.as_str(), result.protocol.as_str()),
        (3, "unix:///run/s/x", "ttrpc")
    );
}

#[test]
fn an_unknown_level_becomes_a_known_one() {
    for (wire, expected) in [
        (-100, LevelFilter::Trace),
        (-8, LevelFilter::Trace),
        (-4, LevelFilter::Debug),
        (-1, LevelFilter::Info),
        (0, LevelFilter::Info),
        (4, LevelFilter::Warn),
        (12, LevelFilter::Error),
    ] {
        assert_eq!(level(wire), expected, "{wire}");
    }
}
