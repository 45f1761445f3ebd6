//! HOME for a process whose environment has none, from the container's /etc/passwd (passwd(5)), as runc does.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys::fs;

/// A passwd file is not read beyond this.
const LIMIT: u64 = 1 << 20;

/// The home directory of `uid` in the container whose root is `root`; `/` if nothing says so.
pub fn home(root: &Path, uid: u32) -> String {
    read(root).and_then(|text| find(&text, uid)).unwrap_or_else(|| "/".into())
}

/// The file as the container sees it: links in the image resolve inside its root, and never outside.
fn read(root: &Path) -> Option<String> {
    let root = CString::new(root.as_os_str().as_encoded_bytes()).ok()?;
    let root = fs::openat(fs::CWD, &root, libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let file =
        fs::openat2(root.as_fd(), c"etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK, 0, resolve).ok()?;
    let regular = fs::fstat(file.as_fd()).ok()?.st_mode & libc::S_IFMT == libc::S_IFREG;
    let mut text = String::new();
    File::from(file).take(LIMIT).read_to_string(&mut text).ok().filter(|_| regular)?;
    Some(text)
}

fn find(text: &str, uid: u32) -> Option<String> {
    let mut users = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.len() >= 6 && fields[2].parse() == Ok(uid))?;
    Some(user[5].to_string()).filter(|home| !home.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1000::/home/app:\n";
        assert_eq!(find(text, 1000).as_deref(), Some("/home/app"));
        assert_eq!(find(text, 0).as_deref(), Some("/root"));
        assert_eq!(find(text, 7), None);
    }

    #[test]
    fn a_root_without_passwd_means_slash() {
        assert_eq!(home(Path::new("/proc/self/fd"), 0), "/");
    }
}
