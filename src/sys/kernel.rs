//! Since which kernel the calls are there that not every kernel has: for error messages, and for README's kernel table,
//! which a test compares with this one.

/// Call, and the Linux that brought it or the form of it that is used here.
const SINCE: [(&str, &str); 14] = [
    ("mount_setattr", "5.12"),
    ("close_range", "5.9"),
    ("faccessat2", "5.8"),
    ("openat2", "5.6"),
    ("clone3", "5.3"),
    ("pidfd_open", "5.3"),
    ("pidfd_send_signal", "5.1"),
    ("pidfd_getfd", "5.6"),
    ("fsopen", "5.2"),
    ("fsconfig", "5.2"),
    ("fspick", "5.2"),
    ("fsmount", "5.2"),
    ("open_tree", "5.2"),
    ("move_mount", "5.2"),
];

/// The first Linux that has `call`, where that is worth a word.
pub fn since(call: &str) -> Option<&'static str> {
    SINCE.iter().find(|(name, _)| *name == call).map(|(_, version)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../README.md");

    fn rows() -> impl Iterator<Item = Vec<&'static str>> {
        let section = README.split("\n## Kernel\n").nth(1).and_then(|rest| rest.split("\n## ").next());
        let lines = section.expect("README has a section on the kernel").lines();
        lines
            .filter(|line| line.starts_with("| "))
            .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
    }

    #[test]
    fn every_call_is_in_readmes_table_with_the_same_version() {
        for (call, version) in SINCE {
            let mut named = rows().filter(|row| row[0].split([',', ' ']).any(|word| word == call));
            let row = named.next().unwrap_or_else(|| panic!("README's kernel table lacks {call}"));
            assert_eq!(row[1].split(',').next(), Some(version), "{call}");
        }
    }

    #[test]
    fn readmes_minimum_is_the_newest_call_without_which_nothing_works() {
        let minimum =
            |version: &str| version.split('.').map(|n| n.parse().expect("a number")).collect::<Vec<u32>>();
        let newest = SINCE.iter().map(|(_, version)| minimum(version)).max().expect("calls");
        assert!(README.contains(&format!("The minimum is **Linux {}.{}**", newest[0], newest[1])));
    }
}
