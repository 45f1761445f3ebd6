//! A file system that answers only until it is asked for what it shall hang on: FUSE (fuse(4)), spoken by the test itself.
//!
//! It has one file, `x`. A request that has been read and not answered keeps its caller in uninterruptible sleep (state
//! D), SIGKILL or not, until the connection is let go.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use myshim::sys::mount;
use serde_json::json;

use super::bundle::Bundle;

/// Operations of linux/fuse.h.
pub const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
pub const OPEN: u32 = 14;
const INIT: u32 = 26;
/// Those that want no answer: FORGET, INTERRUPT, BATCH_FORGET.
const SILENT: [u32; 3] = [2, 36, 42];
const NO_SUCH_CALL: i32 = -libc::ENOSYS;
const NO_ENTRY: i32 = -libc::ENOENT;

pub struct Hung {
    pub folder: PathBuf,
    /// How often it was asked for what it hangs on.
    asked: Arc<AtomicU32>,
    _device: File,
}

impl Hung {
    /// Mounted on a new folder; none where this machine has no FUSE.
    pub fn on(folder: &Path, hangs: u32) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        std::fs::create_dir(folder).expect("make a folder");
        let c = |text: String| std::ffi::CString::new(text).expect("no NUL");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let target = c(folder.display().to_string());
        mount::mount(Some(c"hung"), &target, Some(c"fuse"), 0, Some(&c(data))).ok()?;
        let asked = Arc::<AtomicU32>::default();
        let (mut requests, counter) = (device.try_clone().expect("dup"), asked.clone());
        std::thread::spawn(move || {
            // The kernel wants room for the largest write and its header.
            let mut request = vec![0; 1 << 17];
            while let Ok(length) = requests.read(&mut request) {
                serve(&mut requests, &request[..length], hangs, &counter);
            }
        });
        Some(Self { folder: folder.to_owned(), asked, _device: device })
    }

    /// Shows it to the container.
    pub fn bind(&self, bundle: &mut Bundle, destination: &str) {
        let mount =
            json!({"destination": destination, "type": "bind", "source": self.folder, "options": ["bind"]});
        bundle.push("/mounts", mount);
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("x")
    }

    /// Somebody waits for an answer now.
    #[track_caller]
    pub fn wait_until_asked(&self) {
        super::eventually("somebody asks the hung file system", super::SOON, || {
            (self.asked() > 0).then_some(())
        });
    }

    /// So many wait for an answer.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets everybody go who waits: they get an error. MNT_FORCE aborts what is in flight (umount(2)).
    pub fn let_go(&mut self) {
        let target = std::ffi::CString::new(self.folder.display().to_string()).expect("no NUL");
        let _ = mount::umount2(&target, libc::MNT_FORCE);
        let _ = mount::umount2(&target, libc::MNT_DETACH);
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn serve(device: &mut File, request: &[u8], hangs: u32, asked: &AtomicU32) {
    let (operation, node) = ((number(request, 0) >> 32) as u32, number(request, 16));
    if SILENT.contains(&operation) {
        return;
    }
    if operation == hangs {
        asked.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let name = request.get(40..).unwrap_or_default();
    let (error, body) = match operation {
        INIT => (0, init()),
        GETATTR => (0, [&[0; 16][..], &attributes(node)].concat()),
        LOOKUP if name.starts_with(b"x\0") => {
            (0, [&2u64.to_le_bytes()[..], &[0; 32], &attributes(2)].concat())
        }
        LOOKUP => (NO_ENTRY, Vec::new()),
        _ => (NO_SUCH_CALL, Vec::new()),
    };
    let mut answer = Vec::new();
    answer.extend((16 + body.len() as u32).to_le_bytes());
    answer.extend(error.to_le_bytes());
    answer.extend(number(request, 8).to_le_bytes());
    answer.extend(body);
    // Let go meanwhile: nobody waits for it.
    let _ = device.write_all(&answer);
}

/// struct fuse_init_out, version 7.31, without any of the features.
fn init() -> Vec<u8> {
    let mut out = vec![0; 64];
    for (at, value) in [(0, 7u32), (4, 31), (20, 1 << 16)] {
        out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// struct fuse_attr: the root is a folder, all else a file that may be executed.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = vec![0; 88];
    out[..8].copy_from_slice(&node.to_le_bytes());
    let mode = if node == 1 { libc::S_IFDIR } else { libc::S_IFREG } | 0o755;
    out[60..64].copy_from_slice(&mode.to_le_bytes());
    out[64..68].copy_from_slice(&1u32.to_le_bytes());
    out
}
