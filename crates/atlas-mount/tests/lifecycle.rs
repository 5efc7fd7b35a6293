//! How mounts and sessions begin, change hands and end, with readers at work.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atlas_core::ErrorKind;
use atlas_mount::mounts::{self, MountOptions};
use atlas_mount::{Profile, ROOT_NODE, Session, SessionSettings};
use common::{Memory, Mounted, attach, can_mount, pattern, slice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);
const UNCACHED: Profile = Profile::Uncached;
const SIZE: usize = 50_000;

fn settings(profile: Profile, resume: bool) -> SessionSettings {
    SessionSettings {
        profile,
        resume,
        ..SessionSettings::default()
    }
}

/// One file, `data`, whose reads hang where asked for.
fn memory(hanging: bool) -> (Memory, common::Held) {
    let (mut memory, held) = Memory::new();
    let id = memory.file("data", &pattern(SIZE));
    memory.file("other", b"other");
    if hanging {
        memory.hang(id);
    }
    (memory, held)
}

/// This test program again, in the part that `PART` names: a process that can be killed. It says
/// what it reached on its output.
fn part(name: &str, input: impl Into<Stdio>) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_other_process", "--nocapture"])
        .env("PART", name)
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Reads what a part says up to this line.
fn heard(output: &mut BufReader<ChildStdout>, wanted: &str) {
    let mut said = String::new();
    while !said.ends_with(&format!("{wanted}\n")) {
        if output.buffer().is_empty() {
            let timeout = Timespec::try_from(PATIENCE).unwrap();
            let mut state = [PollFd::new(output.get_ref(), PollFlags::IN)];
            assert_eq!(
                poll(&mut state, Some(&timeout)),
                Ok(1),
                "waited for {wanted:?}: {said}"
            );
        }
        assert_ne!(
            output.read_line(&mut said).unwrap(),
            0,
            "ended before {wanted:?}: {said}"
        );
    }
}

fn say(text: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "{text}").unwrap();
    output.flush().unwrap();
}

/// Not a test by itself: what the other process of a test does.
#[test]
fn the_other_process() {
    match std::env::var("PART").as_deref() {
        Ok("holder") => {
            let device = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let (memory, held) = memory(true);
            let _session =
                Session::start(device, Arc::new(memory), settings(Profile::Live, false)).unwrap();
            let _reply = held.recv().unwrap();
            say("reading");
            std::thread::sleep(PATIENCE);
        }
        Ok("reader") => {
            extern "C" fn ignore(_: i32) {}
            let handler: extern "C" fn(i32) = ignore;
            // SAFETY: the handler does nothing at all.
            unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
            say("begin");
            let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            // By hand: `read_to_end` would hide an EINTR.
            let mut bytes = vec![0; SIZE];
            let count = input.read(&mut bytes).unwrap();
            bytes.truncate(count);
            input.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, pattern(SIZE));
            say("right");
        }
        _ => {}
    }
}

fn reader(mounted: &Mounted) -> (Child, BufReader<ChildStdout>) {
    let (child, mut output) = part("reader", File::open(mounted.at("data")).unwrap());
    heard(&mut output, "begin");
    (child, output)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// To every thread: which of them reads is not ours to choose.
fn disturb(child: &Child) {
    for thread in fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        let thread: i64 = thread
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        // SAFETY: a system call on numbers alone.
        let result = unsafe {
            libc::syscall(
                libc::SYS_tgkill,
                i64::from(child.id()),
                thread,
                libc::SIGUSR1,
            )
        };
        assert_eq!(result, 0);
    }
}

fn ends(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_killed_holder_is_replaced_in_the_middle_of_a_read() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::without_session();
    let (mut holder, mut said) = part("holder", mounted.device.try_clone().unwrap());
    let (mut reader, mut result) = {
        // Opening waits for INIT, which the holder answers.
        let path = mounted.at("data");
        let (child, mut output) = part("reader", File::open(path).unwrap());
        heard(&mut output, "begin");
        (child, output)
    };
    heard(&mut said, "reading");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(
        ends(&mut reader, Duration::from_millis(100)).is_none(),
        "the read waits"
    );
    let (next, _held) = memory(false);
    mounted.serve(next, settings(Profile::Live, true));
    heard(&mut result, "right");
    assert!(reader.wait().unwrap().success());
    assert_eq!(fs::read(mounted.at("other")).unwrap(), b"other");
    assert!(mounted.session().counts()["read"] >= 1);
    assert!(!mounted.session().counts().contains_key("init"));
}

#[test]
fn a_holder_that_died_before_init_is_replaced() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::without_session();
    let mut request = vec![0; 1 << 16];
    let length = rustix::io::read(&mounted.device, &mut request[..]).unwrap();
    assert_eq!(request[4..8], 26u32.to_ne_bytes(), "INIT of {length} bytes");
    let (memory, _held) = memory(false);
    mounted.serve(memory, settings(Profile::Live, true));
    // By another process: this one could not be killed while it waits for itself.
    let mut reader = Command::new("/bin/cat")
        .arg(mounted.at("data"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(ends(&mut reader, PATIENCE).is_some_and(|status| status.success()));
    assert_eq!(mounted.session().counts()["init"], 1);
}

#[test]
fn a_stopped_session_leaves_its_requests_to_the_next() {
    if !can_mount() {
        return;
    }
    let (first, held) = memory(true);
    let mut mounted = Mounted::with(first, settings(UNCACHED, false));
    let (mut child, mut output) = reader(&mounted);
    let (_, reply) = held.recv().unwrap();
    mounted.session().stop();
    drop(reply);
    assert!(!mounted.session().ended());
    let (next, _held) = memory(false);
    mounted.serve(next, settings(UNCACHED, true));
    heard(&mut output, "right");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_dropped_reply_is_an_io_error() {
    if !can_mount() {
        return;
    }
    let (memory, held) = memory(true);
    let mounted = Mounted::with(memory, settings(UNCACHED, false));
    let mut child = Command::new("/bin/cat")
        .arg(mounted.at("data"))
        .env("LC_ALL", "C")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(held.recv().unwrap());
    let mut message = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut message)
        .unwrap();
    assert!(message.contains("Input/output error"), "{message}");
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_killed_reader_goes_away_while_its_read_hangs() {
    if !can_mount() {
        return;
    }
    for (profile, fatal) in [
        (UNCACHED, Signal::KILL),
        (UNCACHED, Signal::TERM),
        (Profile::Live, Signal::KILL),
    ] {
        let (memory, held) = memory(true);
        let mounted = Mounted::with(memory, settings(profile, false));
        let (mut child, _output) = reader(&mounted);
        let (_, reply) = held.recv().unwrap();
        signal(&child, fatal);
        assert!(
            ends(&mut child, PATIENCE).is_some(),
            "{profile:?} {fatal:?}"
        );
        // An answer that comes too late harms nobody.
        reply.data(b"late");
        assert_eq!(fs::read(mounted.at("other")).unwrap(), b"other");
    }
}

#[test]
fn a_signal_that_the_reader_handles_does_not_disturb_its_read() {
    if !can_mount() {
        return;
    }
    let (memory, held) = memory(true);
    let mounted = Mounted::with(memory, settings(UNCACHED, false));
    let (mut child, mut output) = reader(&mounted);
    let (request, reply) = held.recv().unwrap();
    disturb(&child);
    until(|| mounted.session().counts().contains_key("interrupt"));
    assert!(ends(&mut child, Duration::from_millis(300)).is_none());
    reply.data(slice(&pattern(SIZE), request));
    while let Ok((request, reply)) = held.recv_timeout(PATIENCE) {
        reply.data(slice(&pattern(SIZE), request));
        if request.offset >= SIZE as u64 {
            break;
        }
    }
    heard(&mut output, "right");
    assert!(child.wait().unwrap().success());

    // Killed after such a signal: the kernel sends no second interrupt.
    let (mut child, _output) = reader(&mounted);
    let _waiting = held.recv().unwrap();
    disturb(&child);
    until(|| mounted.session().counts()["interrupt"] == 2);
    assert!(ends(&mut child, Duration::from_millis(50)).is_none());
    signal(&child, Signal::KILL);
    assert!(ends(&mut child, PATIENCE).is_some());
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_detached_mount_ends_with_its_last_file() {
    if !can_mount() {
        return;
    }
    let (memory, _held) = memory(false);
    let mut mounted = Mounted::new(memory);
    mounted.mount = None;
    let mut file = File::open(mounted.at("data")).unwrap();
    mounts::unmount(&mounted.path, true).unwrap();
    assert!(
        fs::metadata(mounted.at("data")).is_err(),
        "gone from the path"
    );
    assert!(!mounted.session().wait_ended(Duration::from_millis(200)));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, pattern(SIZE));
    drop(file);
    assert!(mounted.session().wait_ended(PATIENCE));
    assert!(mounted.session().ended());

    // Whoever takes such a descriptor over learns the same.
    let (next, _held) = Memory::new();
    mounted.serve(next, settings(Profile::Live, true));
    assert!(mounted.session().wait_ended(PATIENCE));
}

#[test]
fn a_mount_in_use_is_busy() {
    if !can_mount() {
        return;
    }
    let (memory, _held) = memory(false);
    let mut mounted = Mounted::new(memory);
    mounted.mount = None;
    let file = File::open(mounted.at("data")).unwrap();
    let error = mounts::unmount(&mounted.path, false).unwrap_err();
    assert_eq!(
        (error.kind, error.errno),
        (ErrorKind::Conflict, libc::EBUSY)
    );
    drop(file);
    mounts::unmount(&mounted.path, false).unwrap();
    assert!(mounted.session().wait_ended(PATIENCE));
    let error = mounts::unmount(&mounted.path, false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[test]
fn one_file_system_at_two_places() {
    if !can_mount() {
        return;
    }
    let (memory, _held) = memory(false);
    let mut mounted = Mounted::new(memory);
    mounted.mount = None;
    let second = mounted.other_folder("a second place\n");
    attach(&mounts::clone_of(&mounted.path).unwrap(), &second);
    assert_eq!(fs::read(second.join("data")).unwrap(), pattern(SIZE));
    let table = mounts::table().unwrap();
    let devices: Vec<_> = (table.iter())
        .filter(|entry| entry.path == second || entry.path == mounted.path)
        .map(|entry| entry.device)
        .collect();
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[0], devices[1]);
    mounts::unmount(&mounted.path, false).unwrap();
    assert!(!mounted.session().ended());
    assert_eq!(fs::read(second.join("other")).unwrap(), b"other");
    mounts::unmount(&second, false).unwrap();
    assert!(mounted.session().wait_ended(PATIENCE));
}

#[test]
fn what_cannot_be_served_or_mounted_is_refused() {
    if !can_mount() {
        return;
    }
    let start = |device: OwnedFd| {
        let (memory, _held) = memory(false);
        Session::start(device, Arc::new(memory), SessionSettings::default()).err()
    };
    let error = start(mounts::open_device().unwrap()).unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");

    let mounted = Mounted::without_session();
    let options = MountOptions {
        name: "again".into(),
        uid: 0,
        gid: 0,
        allow_other: false,
        subtype: "atlas-test".into(),
    };
    // The kernel makes another mount of what this descriptor serves.
    let again = mounts::create(&mounted.device, &options).unwrap();
    let first = mounted.mount.as_ref().unwrap();
    assert_eq!(
        mounts::device_of(again).unwrap(),
        mounts::device_of(first).unwrap()
    );
    let error = mounts::create(File::open("/dev/null").unwrap(), &options).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let file = mounted.other_folder("folder").join("file");
    let plain = File::create(&file).unwrap();
    let error = mounts::attach(mounted.mount.as_ref().unwrap().as_fd(), plain.as_fd()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}

#[test]
fn the_kernel_forgets_what_it_no_longer_holds() {
    if !can_mount() {
        return;
    }
    let (memory, _held) = memory(false);
    let memory = Arc::new(memory);
    let mut mounted = Mounted::without_session();
    let device = mounted.device.try_clone().unwrap();
    let session = Session::start(device, memory.clone(), SessionSettings::default()).unwrap();
    mounted.session = Some(session);
    fs::metadata(mounted.at("data")).unwrap();
    mounted
        .session()
        .invalidate_entry(ROOT_NODE, b"data")
        .unwrap();
    until(|| memory.forgotten.load(Ordering::Relaxed) == 1);
}
