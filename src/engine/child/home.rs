//! HOME for a process whose environment has none, from the container's /etc/passwd (passwd(5)), as under runc.
//!
//! The process looks it up itself, with the container's root and before it is its user: the shim reads nothing of the image, and a
//! file system that hangs keeps none of its threads waiting.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::{Result, fs};

const NAME: &[u8] = b"HOME=";
const SIZE: usize = NAME.len() + libc::PATH_MAX as usize;
/// A longer line is nobody's.
const LINE: usize = libc::PATH_MAX as usize;
/// A passwd file is not read beyond this.
const LIMIT: usize = 1 << 20;
const BLOCK: usize = 1024;

/// An entry of the environment.
pub struct Home {
    /// `HOME=`, a path, and a NUL byte.
    entry: [u8; SIZE],
}

impl Home {
    pub fn new() -> Self {
        Self { entry: [0; SIZE] }
    }

    /// Empty until it is looked up.
    pub fn entry(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.entry).unwrap_or_default()
    }

    /// Becomes that of `uid`; `/` if nothing says so, for lack of a file that can be read as well.
    ///
    /// # Errors
    /// For lack of memory or descriptors, which says nothing about the file.
    pub fn look_up(&mut self, uid: u32) -> Result<()> {
        let mut line = [0; LINE];
        let line = match open().and_then(|passwd| line_of(uid, passwd.as_fd(), &mut line)) {
            Err(e) if matches!(e.errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM) => return Err(e),
            found => found.ok().flatten(),
        };
        let home = line.and_then(|line| home_in(line, uid)).filter(|home| !home.is_empty());
        self.set(home.unwrap_or(b"/"));
        Ok(())
    }

    fn set(&mut self, home: &[u8]) {
        let (name, path) = self.entry.split_at_mut(NAME.len());
        name.copy_from_slice(NAME);
        // The byte behind it stays NUL: a home is shorter than its line.
        path[..home.len()].copy_from_slice(home);
    }
}

/// Links in the image resolve inside the root that the process has by now, and a magic one is not followed.
fn open() -> Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = fs::openat2(fs::CWD, c"/etc/passwd", flags, 0, libc::RESOLVE_NO_MAGICLINKS)?;
    match fs::fstat(file.as_fd())?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(file),
        _ => Err(crate::sys::Error::new("fstat", libc::EINVAL)),
    }
}

/// Reads until `line` is that of `uid`.
fn line_of<'l>(uid: u32, passwd: BorrowedFd<'_>, line: &'l mut [u8; LINE]) -> Result<Option<&'l [u8]>> {
    let (mut block, mut length, mut total) = ([0; BLOCK], 0, 0);
    while total < LIMIT {
        let text = fs::read(passwd, &mut block)?;
        total += text.len();
        // The last line may have no end.
        for byte in if text.is_empty() { b"\n" } else { text } {
            if *byte != b'\n' {
                line.get_mut(length).into_iter().for_each(|place| *place = *byte);
                length += 1;
            } else if line.get(..length).and_then(|line| home_in(line, uid)).is_some() {
                return Ok(line.get(..length));
            } else {
                length = 0;
            }
        }
        if text.is_empty() {
            break;
        }
    }
    Ok(None)
}

/// The home that this line says `uid` has.
fn home_in(line: &[u8], uid: u32) -> Option<&[u8]> {
    let mut fields = line.trim_ascii().split(|byte| *byte == b':');
    let id = std::str::from_utf8(fields.nth(2)?).ok()?;
    let home = fields.nth(2)?;
    (id.parse() == Ok(uid)).then_some(home)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        assert_eq!(home_in(b"app:x:1000:1000::/home/app:", 1000), Some(&b"/home/app"[..]));
        assert_eq!(home_in(b" app:x:1000:1000::/home/app\r", 1000), Some(&b"/home/app"[..]));
        for other in
            ["", "broken", "app:x:1000:1000:/home/app", "app:x::0::/", "app:x:1000x:0::/", "app:x:7:0::/"]
        {
            assert_eq!(home_in(other.as_bytes(), 1000), None, "{other}");
        }
    }

    fn found(text: &str, uid: u32) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut line = [0; LINE];
        let line = line_of(uid, file.as_fd(), &mut line).unwrap();
        line.map(|line| String::from_utf8(line.to_vec()).unwrap())
    }

    #[test]
    fn the_users_line_is_found_wherever_it_is() {
        let many: String =
            (1..200).map(|uid| format!("user{uid}:x:{uid}:0:a user:/home/{uid}:/bin/sh\n")).collect();
        for uid in [1, 57, 199] {
            assert_eq!(found(&many, uid), Some(format!("user{uid}:x:{uid}:0:a user:/home/{uid}:/bin/sh")));
        }
        assert_eq!(found(&many, 200), None);
        assert_eq!(found("", 0), None);
        assert_eq!(found("\n\nroot:x:0:0::/root", 0).as_deref(), Some("root:x:0:0::/root"));
        let long = format!("root:x:0:0::/{}\nroot:x:0:0::/root\n", "x".repeat(LINE));
        assert_eq!(found(&long, 0).as_deref(), Some("root:x:0:0::/root"));
        let endless = "x".repeat(LIMIT) + "\nroot:x:0:0::/root\n";
        assert_eq!(found(&endless, 0), None);
    }

    #[test]
    fn an_entry_is_whole_however_long_its_path_is() {
        let mut home = Home::new();
        assert_eq!(home.entry(), c"");
        home.set(b"/root");
        assert_eq!(home.entry(), c"HOME=/root");
        let longest = [b":::::".to_vec(), vec![b'x'; LINE - 5]].concat();
        home.set(&longest[5..]);
        assert_eq!(home.entry().count_bytes(), NAME.len() + LINE - 5);
    }
}
