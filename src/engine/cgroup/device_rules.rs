//! Which devices a container may use: the spec's ordered list reduced to a default and its exceptions.
//!
//! COMPAT: the spec's list has the semantics of the v1 devices controller, on v2 too, as runc emulates it. A list
//! that the controller could not enforce (a hole in a wildcard rule) is refused instead of half obeyed.
//! Kernel document: admin-guide/cgroup-v1/devices.rst.

use std::collections::BTreeMap;
use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::error::{Error, Result};

/// The accesses of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u8);

impl Access {
    // The values of BPF_DEVCG_ACC_*.
    pub const MKNOD: Access = Access(1);
    pub const READ: Access = Access(2);
    pub const WRITE: Access = Access(4);
    pub const ALL: Access = Access(7);

    pub fn bits(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Option<Access> {
        let bits = text.chars().try_fold(0, |bits, c| {
            let bit = match c {
                'm' => Self::MKNOD,
                'r' => Self::READ,
                'w' => Self::WRITE,
                _ => return None,
            };
            Some(bits | bit.0)
        })?;
        (bits != 0).then_some(Access(bits))
    }

    fn and(self, other: Access) -> Access {
        Access(self.0 & other.0)
    }

    fn or(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")];
        letters.into_iter().filter(|(a, _)| !self.and(*a).is_none()).try_for_each(|(_, s)| f.write_str(s))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Block,
    Char,
}

/// The devices of one exception; `None` is every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devices {
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub kind: Kind,
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// A default and the exceptions to it, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceRules {
    pub allow_by_default: bool,
    pub exceptions: BTreeMap<Devices, Access>,
}

/// One line for `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub allow: bool,
    pub text: String,
}

/// What every container may use, whatever its spec says: (major, minor, access) of character devices.
///
/// COMPAT: runc's list. CRI sends "deny all" and relies on it.
const ALWAYS: [(u32, Option<u32>, Access); 9] = [
    (1, Some(3), Access::ALL),    // null
    (1, Some(5), Access::ALL),    // zero
    (1, Some(7), Access::ALL),    // full
    (1, Some(8), Access::ALL),    // random
    (1, Some(9), Access::ALL),    // urandom
    (5, Some(0), Access::ALL),    // tty
    (5, Some(2), Access::ALL),    // ptmx
    (10, Some(200), Access::ALL), // net/tun
    (136, None, Access::ALL),     // pts, and the console, which is one of them
];

impl DeviceRules {
    /// The spec's rules, then those that always hold. Without any rule everything is denied.
    pub fn new(spec: &[LinuxDeviceCgroup]) -> Result<DeviceRules> {
        let mut rules = DeviceRules::default();
        for rule in spec {
            rules.add(rule)?;
        }
        for kind in [Kind::Block, Kind::Char] {
            // A node that cannot be opened harms nobody: mknod is allowed for all.
            rules.except(Devices { kind, major: None, minor: None }, Access::MKNOD, true)?;
        }
        for (major, minor, access) in ALWAYS {
            rules.except(Devices { kind: Kind::Char, major: Some(major), minor }, access, true)?;
        }
        Ok(rules)
    }

    /// Whether these rules allow everything.
    pub fn allow_all(&self) -> bool {
        self.allow_by_default && self.exceptions.is_empty()
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<()> {
        let refuse = |reason| Error::Device { rule: spec_text(rule), reason };
        let access = Access::parse(rule.access().as_deref().unwrap_or_default())
            .ok_or_else(|| refuse("access must be one or more of r, w and m"))?;
        let kind = match rule.typ().unwrap_or_default() {
            // KERNEL: "a" always means all devices and accesses: it sets the default and forgets the exceptions.
            LinuxDeviceType::A => {
                *self = DeviceRules { allow_by_default: rule.allow(), exceptions: BTreeMap::new() };
                return Ok(());
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
            LinuxDeviceType::P => return Err(refuse("fifos are no devices; the types are a, b and c")),
        };
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => match i32::try_from(n) {
                Ok(n) if n >= 0 => Ok(Some(n as u32)),
                _ => Err(refuse("device numbers are 0 to 2147483647, or -1 for any")),
            },
        };
        let devices = Devices { kind, major: number(rule.major())?, minor: number(rule.minor())? };
        self.except(devices, access, rule.allow())
    }

    /// Allows or denies some devices: a new exception, or part of an old one taken back.
    fn except(&mut self, devices: Devices, access: Access, allow: bool) -> Result<()> {
        if allow != self.allow_by_default {
            let entry = self.exceptions.entry(devices).or_default();
            *entry = entry.or(access);
            return Ok(());
        }
        self.refuse_hole(devices, access, allow)?;
        if let Some(entry) = self.exceptions.get_mut(&devices) {
            *entry = entry.without(access);
            if entry.is_none() {
                self.exceptions.remove(&devices);
            }
        }
        Ok(())
    }

    /// The v1 controller silently ignores the removal of a part of a wildcard exception.
    fn refuse_hole(&self, devices: Devices, access: Access, allow: bool) -> Result<()> {
        let wider = [
            Devices { major: None, ..devices },
            Devices { minor: None, ..devices },
            Devices { major: None, minor: None, ..devices },
        ];
        let hit = |d: &Devices| self.exceptions.get(d).is_some_and(|held| !held.and(access).is_none());
        if wider.iter().any(|d| *d != devices && hit(d)) {
            return Err(Error::Device {
                rule: format!("{} {devices} {access}", if allow { "allow" } else { "deny" }),
                reason: "cgroups cannot punch a hole into an earlier wildcard rule; list the devices one by one",
            });
        }
        Ok(())
    }

    /// The state that a `devices.list` text shows. A default of "allow" hides its exceptions.
    pub fn from_list(text: &str) -> DeviceRules {
        let mut rules = DeviceRules::default();
        for line in text.lines() {
            match parse_line(line) {
                Some((devices, access)) => {
                    rules.exceptions.insert(devices, access);
                }
                None => rules.allow_by_default |= line.starts_with('a'),
            }
        }
        if rules.allow_by_default { DeviceRules { exceptions: BTreeMap::new(), ..rules } } else { rules }
    }

    /// The lines that lead from `self` to `target`, without a moment in which something allowed by both is denied
    /// (unless the default changes, or the old exceptions cannot be known).
    pub fn lines_to(&self, target: &DeviceRules) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut old = &self.exceptions;
        let none = BTreeMap::new();
        if self.allow_by_default || target.allow_by_default {
            lines.push(Line { allow: target.allow_by_default, text: "a".to_owned() });
            old = &none;
        }
        let mut differ = |from: &BTreeMap<Devices, Access>, to: &BTreeMap<Devices, Access>, allow| {
            for (devices, access) in from {
                let rest = access.without(to.get(devices).copied().unwrap_or_default());
                if !rest.is_none() {
                    lines.push(Line { allow, text: format!("{devices} {rest}") });
                }
            }
        };
        differ(old, &target.exceptions, target.allow_by_default);
        differ(&target.exceptions, old, !target.allow_by_default);
        lines
    }
}

fn spec_text(rule: &LinuxDeviceCgroup) -> String {
    let number = |n: Option<i64>| n.map_or("*".to_owned(), |n| n.to_string());
    let (allow, kind) = (if rule.allow() { "allow" } else { "deny" }, rule.typ().unwrap_or_default());
    let access = rule.access().as_deref().unwrap_or_default();
    format!("{allow} {} {}:{} {access:?}", kind.as_str(), number(rule.major()), number(rule.minor()))
}

/// A `c 1:3 rwm` line of devices.list.
fn parse_line(line: &str) -> Option<(Devices, Access)> {
    let mut fields = line.split([' ', ':']);
    let kind = match fields.next()? {
        "b" => Kind::Block,
        "c" => Kind::Char,
        _ => return None,
    };
    let mut number = || match fields.next()? {
        "*" => Some(None),
        n => n.parse().ok().map(Some),
    };
    let (major, minor) = (number()?, number()?);
    Some((Devices { kind, major, minor }, Access::parse(fields.next()?)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rules from lines like `allow c 1:3 rwm` and `deny a`.
    pub fn spec(lines: &[&str]) -> Vec<LinuxDeviceCgroup> {
        let rule = |line: &&str| {
            let fields: Vec<_> = line.split([' ', ':']).collect();
            let number = |i: usize| fields.get(i).and_then(|n| n.parse::<i64>().ok());
            let json = serde_json::json!({
                "allow": fields[0] == "allow", "type": fields[1], "major": number(2), "minor": number(3),
                "access": fields.get(4).unwrap_or(&"rwm"),
            });
            serde_json::from_value(json).unwrap()
        };
        lines.iter().map(rule).collect()
    }

    fn text(rules: &DeviceRules) -> Vec<String> {
        rules.exceptions.iter().map(|(d, a)| format!("{d} {a}")).collect()
    }

    #[test]
    fn deny_all_leaves_the_devices_that_every_container_has() {
        let rules = DeviceRules::new(&spec(&["deny a"])).unwrap();
        assert!(!rules.allow_by_default);
        assert_eq!(rules, DeviceRules::new(&[]).unwrap());
        let expected = [
            "b *:* m",
            "c *:* m",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:2 rwm",
            "c 10:200 rwm",
            "c 136:* rwm",
        ];
        assert!(expected.iter().all(|e| text(&rules).contains(&(*e).to_owned())));
        assert_eq!(rules.exceptions.len(), expected.len());
    }

    #[test]
    fn a_privileged_container_has_no_exceptions() {
        assert!(DeviceRules::new(&spec(&["allow a"])).unwrap().allow_all());
        assert!(!DeviceRules::new(&spec(&["allow a", "deny b 8:0 w"])).unwrap().allow_all());
    }

    #[test]
    fn permissions_add_up_and_are_taken_back() {
        let rules = DeviceRules::new(&spec(&["allow b 8:0 r", "allow b 8:0 w", "deny b 8:0 r"])).unwrap();
        assert!(text(&rules).contains(&"b 8:0 w".to_owned()));
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused() {
        let e = DeviceRules::new(&spec(&["allow c 4:* rw", "deny c 4:1 w"])).unwrap_err().to_string();
        assert!(e.contains("deny c 4:1 w") && e.contains("punch a hole"), "{e}");
        DeviceRules::new(&spec(&["allow c 4:* r", "deny c 4:1 w"])).unwrap();
    }

    #[test]
    fn rules_without_sense_are_refused() {
        for bad in ["allow p 1:1 rwm", "allow c 1:1 rx", "allow c -2:1 r", "allow b 99999999999:0 r"] {
            assert!(DeviceRules::new(&spec(&[bad])).is_err(), "{bad}");
        }
        let mut no_access = spec(&["allow c 1:1 r"]);
        no_access[0].set_access(None);
        assert!(DeviceRules::new(&no_access).is_err());
    }

    #[test]
    fn an_update_changes_only_what_differs() {
        let old = DeviceRules::from_list("c 1:3 rwm\nb 8:0 rw\nc *:* m\n");
        let new = DeviceRules::from_list("c 1:3 rwm\nb 8:0 r\nc *:* m\nc 10:229 rw\n");
        let lines: Vec<_> = old.lines_to(&new).into_iter().map(|l| (l.allow, l.text)).collect();
        assert_eq!(lines, [(false, "b 8:0 w".to_owned()), (true, "c 10:229 rw".to_owned())]);
        let fresh = DeviceRules::from_list("a *:* rwm\n");
        assert_eq!(fresh.lines_to(&new)[0], Line { allow: false, text: "a".into() });
        assert_eq!(new.lines_to(&fresh), [Line { allow: true, text: "a".into() }]);
    }
}
