//! The command lines of containerd 1.6 to 2.3, and those nobody should type.

use super::*;

fn parse(line: &str) -> Result<Args, ArgsError> {
    Args::parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn containerd_start_is_understood() {
    let args =
        parse("-namespace k8s.io -address /run/c.sock -publish-binary /bin/containerd -id c1 -debug start");
    let args = args.expect("a valid line");
    assert_eq!(args.action, Action::Start);
    assert_eq!((args.namespace.as_str(), args.id.as_str()), ("k8s.io", "c1"));
    assert_eq!((args.address.as_str(), args.publish_binary.as_str()), ("/run/c.sock", "/bin/containerd"));
    assert!(args.debug);
}

#[test]
fn containerd_delete_is_understood() {
    let args = parse("-namespace=n --id=c1 -bundle /run/b -publish-binary= delete").expect("a valid line");
    assert_eq!((args.action, args.bundle), (Action::Delete, PathBuf::from("/run/b")));
    assert!(!args.debug);
}

#[test]
fn an_empty_value_is_a_value() {
    let words = ["-namespace", "n", "-publish-binary", "", "-id", "c1", "start"];
    assert!(Args::parse(words.into_iter().map(OsString::from)).is_ok());
}

#[test]
fn info_version_and_help_need_nothing_else() {
    for (line, action) in [
        ("-info", Action::Info),
        ("-v", Action::Version),
        ("--version", Action::Version),
        ("-help", Action::Help),
        ("-debug -h", Action::Help),
    ] {
        assert_eq!(parse(line).map(|a| a.action), Ok(action), "{line}");
    }
}

#[test]
fn a_boolean_may_be_switched_off() {
    assert!(!parse("-namespace n -id c -debug=false start").expect("a valid line").debug);
    let error = parse("-debug=maybe start").unwrap_err();
    assert_eq!(error, ArgsError::NotABoolean("debug", "maybe".into()));
}

#[test]
fn an_error_names_the_flag() {
    for (line, name) in [
        ("-nope start", "-nope"),
        ("-id", "-id"),
        ("-namespace n start", "-id"),
        ("-namespace n -id ../x start", "-id"),
        ("-namespace a/b -id x start", "-namespace"),
        ("-namespace n -id x", "no action"),
        ("-namespace n -id x stop", "stop"),
        ("-namespace n -id x start again", "again"),
    ] {
        let text = parse(line).unwrap_err().to_string();
        assert!(text.contains(name), "{line}: {text}");
    }
}

#[test]
fn identifiers_cannot_leave_their_directory() {
    for good in ["a", "0", "k8s.io", "a_b-c+d.e", &"x".repeat(76)] {
        assert!(is_identifier(good), "{good}");
    }
    for bad in ["", ".", "..", "-a", "a/b", "a..b", "a b", "é"] {
        assert!(!is_identifier(bad), "{bad}");
    }
}

#[test]
fn help_tells_of_every_flag() {
    for flag in TEXT.iter().chain(&BOOLEAN) {
        assert!(HELP.contains(&format!("-{flag}")), "{flag}");
    }
}
