//! The shim's own program file: nobody in a container writes to it, and it sees to that before libc begins.

use crate::support::fifo::Sink;
use crate::support::older_kernel::{without, without_set_mm};
use crate::support::shim::Host;
use crate::support::subject;
use crate::{needs, needs_containers};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// CVE-2019-5736: the container overwrote the host's runtime through /proc/self/exe, after the runtime had ended.
/// Rule: the shim runs from a read-only view of its file. To see it fail: in `shim/start.rs` drop `view::enter`, and
/// in `sys/entry/mod.rs` the other.
#[test]
fn cve_2019_5736_the_shims_program_cannot_be_written_through_proc() {
    needs_containers!();
    needs!(subject::ours(), "runc protects its init, not its shim");
    cannot_be_written(Host::new());
}

/// The same where the entry point cannot see to it. To see it fail: drop `view::enter` alone.
#[test]
fn cve_2019_5736_nor_where_the_program_has_to_be_executed_once_more() {
    needs_containers!();
    needs!(maps_itself(), "the program is executed once more anyway");
    without_set_mm(|| hosts().into_iter().for_each(cannot_be_written));
}

#[test]
fn cve_2019_5736_nor_with_a_large_environment_or_a_malloc_that_is_told_something_else() {
    needs_containers!();
    needs!(subject::ours(), "runc protects its init, not its shim");
    hosts().into_iter().for_each(cannot_be_written);
}

/// With environments out of the ordinary.
fn hosts() -> [Host; 2] {
    let (mut large, mut told) = (Host::new(), Host::new());
    large.environment.extend((0..3000).map(|number| (format!("V{number}"), "value".into())));
    told.environment.push(("GLIBC_TUNABLES".into(), "glibc.malloc.arena_max=1".into()));
    [large, told]
}

#[track_caller]
fn cannot_be_written(host: Host) {
    let shim = host.start(host.bundle("a", "sleep 1000"));
    let pid = shim.create().expect("Create");
    for pid in [shim.pid, pid as i32] {
        let exe = format!("/proc/{pid}/exe");
        let kept = File::open(&exe).expect("open it to read");
        assert!(
            myshim::sys::fs::is_readonly(kept.as_fd()).expect("fstatvfs"),
            "{exe} can be written once it ends"
        );
        let theirs = kept.metadata().expect("stat");
        let ours = fs::metadata(subject::Subject::current().binary()).expect("stat");
        assert_eq!((theirs.dev(), theirs.ino()), (ours.dev(), ours.ino()), "not the same file");
        // Opened for writing it is not as long as any shim runs (ETXTBSY), view or no view. A change of its mode, to what it
        // is, asks the mount alone.
        for path in [exe, format!("/proc/self/fd/{}", kept.as_raw_fd())] {
            let refused = fs::set_permissions(path, theirs.permissions()).expect_err("changed");
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        }
    }
}

fn program() -> Vec<u8> {
    fs::read(subject::Subject::current().binary()).expect("read the program")
}

/// At a fixed address (elf(5): e_type is ET_EXEC), or else it was built to be put anywhere.
fn has_entry_point(program: &[u8]) -> bool {
    cfg!(target_arch = "x86_64") && program[16..18] == [2, 0]
}

/// Whether ours sees to its view at an entry point of its own: at a fixed address, since Linux 5.15.
fn maps_itself() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the kernel's release");
    let mut version = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    subject::ours() && has_entry_point(&program()) && (version.next(), version.next()) >= (Some(5), Some(15))
}

/// `start` has a view of its file, and a malloc that suits it, before libc is set up, and executes nothing, see `sys/entry`; where
/// it may not, it does not. To see it fail: change any argument of its calls, insert no variable, or do not ask for Linux 5.15.
#[test]
fn the_view_is_there_before_the_program_looks_for_one() {
    needs_containers!();
    needs!(maps_itself(), "it looks for one");
    let restores = Path::new("/proc/sys/kernel/ns_last_pid").exists();
    needs!(restores, "the kernel is built without CONFIG_CHECKPOINT_RESTORE");
    let host = Host::new();
    let file = File::open(&host.binary).expect("open the shim");
    let writable = !myshim::sys::fs::is_readonly(file.as_fd()).expect("fstatvfs");
    needs!(writable, "the shim's file cannot be written here");
    for (id, missing) in [("a", &["execveat"][..]), ("b", &["execveat", "process_mrelease"])] {
        let bundle = host.bundle(id, "true");
        let log = Sink::new(bundle.folder.join("log"));
        let shim = without(missing, || host.start(bundle));
        let exe = File::open(format!("/proc/{}/exe", shim.pid)).expect("open it");
        let viewed = missing.len() == 1;
        assert_eq!(myshim::sys::fs::is_readonly(exe.as_fd()).expect("fstatvfs"), viewed);
        let words = fs::read_to_string(format!("/proc/{}/cmdline", shim.pid)).expect("read its arguments");
        let binary = host.binary.to_str().expect("text");
        assert!(words.starts_with(binary) && words.ends_with("\0start\0"), "{words:?}");
        shim.shutdown();
        shim.wait_until_gone();
        // `view::enter` fails without a view, and says so.
        match log.finish() {
            log if viewed => assert_eq!(log, ""),
            log => assert!(log.contains("execveat: ENOSYS"), "{log}"),
        }
    }
}

/// Whoever builds the program without that entry point is told here.
#[test]
fn the_program_begins_at_its_own_entry_point() {
    needs!(subject::ours(), "it is ours that has one");
    let program = program();
    needs!(has_entry_point(&program), "only an x86_64 program at a fixed address has one");
    let number = |at: usize, size: usize| {
        let bytes = program[at..at + size].iter().rev();
        bytes.fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (entry, headers) = (number(24, 8), number(32, 8));
    // p_type is PT_LOAD, and p_vaddr with p_filesz holds the entry.
    let segment = (0..number(56, 2)).map(|index| headers + index * 56).find(|at| {
        number(*at, 4) == 1 && (number(at + 16, 8)..number(at + 16, 8) + number(at + 32, 8)).contains(&entry)
    });
    let at = segment.map(|at| entry - number(at + 16, 8) + number(at + 8, 8)).expect("a segment");
    // xor ebp, ebp; mov rbx, rdx: libc's own keeps rdx elsewhere.
    assert_eq!(program[at..at + 5], [0x31, 0xed, 0x48, 0x89, 0xd3]);
}
