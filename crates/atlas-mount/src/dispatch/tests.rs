//! A session with a socket in place of the device: these tests are the kernel.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use atlas_core::{ErrorKind, Kind, Timestamp};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use zerocopy::{FromBytes, IntoBytes};

use crate::filesystem::{Filesystem, FolderRequest, NodeAttributes, ReadRequest};
use crate::folder::ReplyFolder;
use crate::protocol::{
    AnswerHeader, BatchForgetArguments, EntryAnswer, FolderEntry, InitAnswer, InitRequest,
    ReadArguments, RequestHeader, WireAttributes, operation,
};
use crate::reply::{ReplyAttributes, ReplyData, ReplyEntry, ReplyStatistics};
use crate::session::{Profile, Session, SessionSettings};

/// The kernel marks requests that it sends again with this bit of `unique`.
const RESENT: u64 = 1 << 63;

struct Few;

const ATTRIBUTES: NodeAttributes = NodeAttributes {
    inode: 5,
    kind: Kind::File,
    permissions: 0o640,
    uid: 1,
    gid: 2,
    links: 1,
    size: 10,
    blocks: 1,
    block_size: 4096,
    device_number: 0,
    accessed: Timestamp {
        seconds: 1,
        nanoseconds: 2,
    },
    modified: Timestamp {
        seconds: -3,
        nanoseconds: 4,
    },
    changed: Timestamp {
        seconds: 5,
        nanoseconds: 6,
    },
};

impl Filesystem for Few {
    fn lookup(&self, _parent: u64, name: &[u8], reply: ReplyEntry) {
        if name == b"here" {
            reply.found(5, &ATTRIBUTES);
        } else {
            reply.absent();
        }
    }
    fn attributes(&self, _node: u64, reply: ReplyAttributes) {
        reply.attributes(&ATTRIBUTES);
    }
    fn read_link(&self, node: u64, reply: ReplyData) {
        reply.data(&vec![b'x'; node as usize]);
    }
    fn read(&self, request: ReadRequest, reply: ReplyData) {
        match request.node {
            // More than asked.
            5 => reply.data(b"0123456789"),
            6 => reply.fill(usize::MAX, |buffer| {
                buffer.fill(b'f');
                Ok(buffer.len())
            }),
            7 => reply.fill(4, |_| Err(libc::ESTALE)),
            _ => reply.error(-1),
        }
    }
    fn read_folder(&self, request: FolderRequest, mut reply: ReplyFolder) {
        for index in request.offset.. {
            let name = [b'n', b'a' + (index % 26) as u8];
            assert!(
                reply.add(b"with/slash", 9, None, index + 1, None),
                "left out"
            );
            if !reply.add(
                &name,
                index,
                Some(Kind::Link),
                index + 1,
                Some((5, &ATTRIBUTES)),
            ) {
                break;
            }
        }
        reply.send();
    }
    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        drop(reply);
    }
}

struct Kernel {
    end: OwnedFd,
    session: Session,
}

impl Kernel {
    fn new(profile: Profile) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let (end, device) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let settings = SessionSettings {
            profile,
            threads: 2,
            ..SessionSettings::default()
        };
        let session = Session::start(device, Arc::new(Few), settings).unwrap();
        Self { end, session }
    }

    fn send(&self, message: &[u8]) {
        assert_eq!(rustix::io::write(&self.end, message), Ok(message.len()));
    }

    fn ask(&self, operation: u32, unique: u64, node: u64, body: &[u8]) {
        self.send(&message(operation, unique, node, body));
    }

    /// Unique, error and payload of the next answer.
    fn answer(&self) -> (u64, i32, Vec<u8>) {
        let mut bytes = vec![0; 1 << 17];
        let length = rustix::io::read(&self.end, &mut bytes[..]).unwrap();
        bytes.truncate(length);
        let (header, payload) = AnswerHeader::read_from_prefix(&bytes).unwrap();
        assert_eq!(header.length as usize, length);
        (header.unique, header.error, payload.to_vec())
    }

    fn error_of(&self, operation: u32, node: u64, body: &[u8]) -> i32 {
        self.ask(operation, 42, node, body);
        let (unique, error, payload) = self.answer();
        assert_eq!((unique, payload.len()), (42, 0));
        -error
    }
}

fn message(operation: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + body.len()) as u32,
        operation,
        unique,
        node,
        uid: 0,
        gid: 0,
        thread: 0,
        extensions: 0,
        padding: 0,
    };
    [header.as_bytes(), body].concat()
}

fn read_arguments(offset: u64, size: u32) -> ReadArguments {
    ReadArguments {
        handle: 0,
        offset,
        size,
        read_flags: 0,
        lock_owner: 0,
        flags: 0,
        padding: 0,
    }
}

#[test]
fn answers_carry_the_whole_unique_and_the_life_of_the_profile() {
    for (profile, seconds) in [
        (Profile::Live, 365 * 86_400),
        (Profile::Uncached, 0),
        (Profile::Twin, 365 * 86_400),
    ] {
        let kernel = Kernel::new(profile);
        kernel.ask(operation::LOOKUP, RESENT | 8, 1, b"here\0");
        let (unique, error, payload) = kernel.answer();
        assert_eq!((unique, error), (RESENT | 8, 0));
        let entry = EntryAnswer::read_from_bytes(&payload).unwrap();
        assert_eq!((entry.node, entry.entry_valid_seconds), (5, seconds));
        let WireAttributes {
            mode,
            modified,
            modified_nanoseconds,
            ..
        } = entry.attributes;
        assert_eq!((mode, modified, modified_nanoseconds), (0o100_640, -3, 4));
    }
    let kernel = Kernel::new(Profile::Live);
    kernel.ask(operation::LOOKUP, 8, 1, b"gone\0");
    let entry = EntryAnswer::read_from_bytes(&kernel.answer().2).unwrap();
    assert_eq!(entry.node, 0);
    assert!(entry.entry_valid_seconds > 0);
    let kernel = Kernel::new(Profile::Uncached);
    assert_eq!(
        kernel.error_of(operation::LOOKUP, 1, b"gone\0"),
        libc::ENOENT
    );
}

#[test]
fn replies_are_kept_within_what_was_asked() {
    let kernel = Kernel::new(Profile::Live);
    let data = |node, size| {
        kernel.ask(operation::READ, 2, node, read_arguments(0, size).as_bytes());
        let (_, error, payload) = kernel.answer();
        (error, payload)
    };
    assert_eq!(data(5, 4), (0, b"0123".to_vec()));
    assert_eq!(data(6, 3), (0, b"fff".to_vec()));
    assert_eq!(data(7, 4), (-libc::ESTALE, Vec::new()));
    assert_eq!(
        data(8, 4),
        (-libc::EIO, Vec::new()),
        "no errno that the kernel would not take"
    );
    assert_eq!(
        kernel.error_of(operation::READLINK, 5000, &[]),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        kernel.error_of(operation::STATFS, 1, &[]),
        libc::EIO,
        "dropped"
    );

    for (operation, head) in [(operation::READDIR, 0), (operation::READDIRPLUS, 128)] {
        kernel.ask(operation, 2, 1, read_arguments(7, 1000).as_bytes());
        let (_, _, payload) = kernel.answer();
        assert_eq!(payload.len(), 1000 / (head + 32) * (head + 32));
        let (entry, name) = FolderEntry::read_from_prefix(&payload[head..]).unwrap();
        assert_eq!(
            (entry.next_offset, entry.name_length, entry.kind),
            (8, 2, 10)
        );
        assert_eq!(&name[..8], b"nh\0\0\0\0\0\0");
    }
}

#[test]
fn changing_and_unknown_operations_are_refused() {
    let kernel = Kernel::new(Profile::Live);
    for operation in [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51] {
        assert_eq!(
            kernel.error_of(operation, 1, &[0; 200]),
            libc::EROFS,
            "{operation}"
        );
    }
    for operation in [20, 25, 30, 34, 37, 40, 46, 50, 52, 53, 4096, u32::MAX] {
        assert_eq!(
            kernel.error_of(operation, 1, &[0; 200]),
            libc::ENOSYS,
            "{operation}"
        );
    }
    assert_eq!(kernel.error_of(operation::IOCTL, 1, &[0; 32]), libc::ENOTTY);
    assert_eq!(
        kernel.error_of(operation::LOOKUP, 1, &[&[b'x'; 256][..], &[0]].concat()),
        36
    );
    assert_eq!(kernel.session.counts()["unknown"], 3);
    assert_eq!(kernel.session.counts()["rename2"], 1);
}

#[test]
fn malformed_messages_do_no_harm() {
    let kernel = Kernel::new(Profile::Live);
    assert_eq!(
        kernel.error_of(operation::LOOKUP, 1, b"no end"),
        libc::EINVAL
    );
    assert_eq!(kernel.error_of(operation::LOOKUP, 1, b"\0"), libc::EINVAL);
    assert_eq!(kernel.error_of(operation::LOOKUP, 1, b""), libc::EINVAL);
    assert_eq!(kernel.error_of(operation::READ, 1, &[0; 39]), libc::EINVAL);
    assert_eq!(
        kernel.error_of(operation::GETXATTR, 1, &[0; 8]),
        libc::EINVAL
    );
    assert_eq!(kernel.error_of(operation::INIT, 1, &[0; 15]), libc::EINVAL);
    let mut lying = message(operation::LOOKUP, 42, 1, b"here\0");
    lying[0] += 1;
    kernel.send(&lying);
    assert_eq!(kernel.answer().1, -libc::EINVAL);
    // No answer to these, and none is expected.
    kernel.send(b"short");
    kernel.ask(operation::FORGET, 0, 1, &[]);
    let batch = BatchForgetArguments {
        count: u32::MAX,
        padding: 0,
    };
    kernel.ask(operation::BATCH_FORGET, 0, 1, batch.as_bytes());
    kernel.ask(operation::INTERRUPT, 1, 0, &[7]);
    // A pseudo-random stream, the same on every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut answered = 0;
    for round in 0..3000u64 {
        let mut body = vec![0; (state % 120) as usize];
        for byte in &mut body {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        let operation = (state >> 20) as u32 % 56;
        // A folder that never ends would be listed from an absurd offset.
        let silent = [2, 28, 36, 41, 42, 44].contains(&operation);
        if !silent {
            kernel.ask(operation, round + 100, state % 9, &body);
            answered += 1;
            let (unique, error, _) = kernel.answer();
            assert_eq!(unique, round + 100);
            assert!((-511..=0).contains(&error));
        } else if operation != 28 && operation != 44 {
            kernel.ask(operation, round + 100, state % 9, &body);
        }
    }
    assert!(answered > 2000);
    kernel.ask(operation::LOOKUP, 8, 1, b"here\0");
    assert_eq!(kernel.answer().1, 0);
}

#[test]
fn init_is_answered_whenever_it_comes() {
    let kernel = Kernel::new(Profile::Live);
    kernel.ask(operation::LOOKUP, 8, 1, b"here\0");
    assert_eq!(kernel.answer().1, 0);
    let request = InitRequest {
        major: 7,
        minor: 45,
        max_readahead: 1 << 17,
        flags: u32::MAX,
    };
    let extended = [request.as_bytes(), &[0xff; 48]].concat();
    kernel.ask(operation::INIT, RESENT | 2, 0, &extended);
    let (unique, error, payload) = kernel.answer();
    assert_eq!((unique, error), (RESENT | 2, 0));
    let answer = InitAnswer::read_from_bytes(&payload).unwrap();
    assert_eq!(
        (answer.major, answer.max_pages, answer.max_readahead),
        (7, 256, 1 << 20)
    );
    assert!(kernel.session.failure().is_none());
}

#[test]
fn an_old_kernel_is_refused_and_the_session_says_why() {
    let kernel = Kernel::new(Profile::Live);
    let request = InitRequest {
        major: 7,
        minor: 26,
        max_readahead: 0,
        flags: 0,
    };
    assert_eq!(
        kernel.error_of(operation::INIT, 0, request.as_bytes()),
        libc::EPROTO
    );
    assert_eq!(
        kernel.session.failure().unwrap().kind,
        ErrorKind::Unsupported
    );
}

#[test]
fn the_end_of_the_other_side_is_the_end() {
    let Kernel { end, session } = Kernel::new(Profile::Live);
    assert!(!session.wait_ended(Duration::from_millis(20)));
    drop(end);
    assert!(session.wait_ended(Duration::from_secs(20)));
}
