//! Origins that keep no extended attributes, or cannot say what they are.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program"
)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use atlas_core::{ACCESS_ACL, Identity, Kind, Timestamp};
use atlas_mount::mounts::{self, MountOptions};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, Profile, ROOT_NODE, ReadRequest, ReplyAttributes,
    ReplyData, ReplyEntry, ReplyExtended, ReplyFolder, ReplyStatistics, Session, SessionSettings,
    Statistics,
};
use atlas_origin::{Origin, PosixOrigin};

/// What it says of the ACL of each file, by the file's number: an errno, or 0 for none.
const FILES: [(&str, i32); 4] = [
    ("none", libc::ENODATA),
    ("broken", libc::EIO),
    ("refused", libc::EACCES),
    ("listed", libc::ENODATA),
];

struct Odd {
    /// It knows of no extended attributes at all.
    mute: bool,
}

fn attributes(node: u64) -> NodeAttributes {
    let time = Timestamp {
        seconds: 1_000_000,
        nanoseconds: 0,
    };
    let root = node == ROOT_NODE;
    NodeAttributes {
        inode: node,
        kind: if root { Kind::Folder } else { Kind::File },
        permissions: if root { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        links: 1,
        size: 0,
        blocks: 0,
        block_size: 4096,
        device_number: 0,
        accessed: time,
        modified: time,
        changed: time,
    }
}

impl Filesystem for Odd {
    fn lookup(&self, _parent: u64, name: &[u8], reply: ReplyEntry) {
        match (2..).zip(FILES).find(|(_, file)| file.0.as_bytes() == name) {
            Some((node, _)) => reply.found(node, &attributes(node)),
            None => reply.absent(),
        }
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        reply.attributes(&attributes(node));
    }

    fn read_link(&self, _node: u64, reply: ReplyData) {
        reply.error(libc::EINVAL);
    }

    fn read(&self, _request: ReadRequest, reply: ReplyData) {
        reply.data(&[]);
    }

    fn read_folder(&self, _request: FolderRequest, reply: ReplyFolder) {
        reply.send();
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        reply.statistics(&Statistics::default());
    }

    fn extended_attribute(&self, node: u64, name: &[u8], reply: ReplyExtended) {
        let file = (node as usize).checked_sub(2).and_then(|at| FILES.get(at));
        match file {
            _ if self.mute => reply.error(libc::ENOSYS),
            Some((_, errno)) if name == ACCESS_ACL => reply.error(*errno),
            Some(_) if name == b"user.there" => reply.value(b"value"),
            _ => reply.error(libc::ENODATA),
        }
    }

    fn extended_attribute_names(&self, node: u64, reply: ReplyExtended) {
        match node {
            _ if self.mute => reply.error(libc::ENOSYS),
            5 => reply.value(b"user.there\0user.gone\0security.x\0user.\0"),
            _ => reply.value(b""),
        }
    }
}

struct Mounted {
    origin: PosixOrigin,
    session: Session,
    _mount: OwnedFd,
}

fn mount(mute: bool) -> Option<Mounted> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: no root");
        return None;
    }
    let Ok(device) = mounts::open_device() else {
        println!("skipped: no /dev/fuse");
        return None;
    };
    let options = MountOptions {
        name: "odd".into(),
        uid: 0,
        gid: 0,
        allow_other: true,
        subtype: "odd".into(),
    };
    let mount = mounts::create(&device, &options).unwrap();
    let settings = SessionSettings {
        profile: Profile::Uncached,
        ..SessionSettings::default()
    };
    let session = Session::start(device, Arc::new(Odd { mute }), settings).unwrap();
    let groups = rustix::process::getgroups().unwrap();
    let me = Identity {
        uid: 0,
        gid: rustix::process::getegid().as_raw(),
        groups: groups.iter().map(|group| group.as_raw()).collect(),
    };
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let origin = PosixOrigin::open(Path::new(&path), &me).unwrap();
    Some(Mounted {
        origin,
        session,
        _mount: mount,
    })
}

#[test]
fn an_acl_that_cannot_be_read_is_an_error_of_its_entry() {
    let Some(mounted) = mount(false) else { return };
    let names = FILES.map(|(name, _)| name.as_bytes());
    let mut entries = mounted.origin.stat_many(b"", &names).unwrap();
    let listed = entries.pop().unwrap().unwrap();
    let shown: Vec<_> = (listed.extended.iter())
        .map(|one| (one.name.as_slice(), one.value.as_slice()))
        .collect();
    assert_eq!(shown, [(b"user.there".as_slice(), b"value".as_slice())]);
    assert_eq!(listed.left_out, 0, "what is gone is none");
    let errnos: Vec<_> = (entries.iter())
        .map(|entry| entry.as_ref().map_or_else(|error| error.errno, |_| 0))
        .collect();
    assert_eq!(errnos, [0, libc::EIO, libc::EACCES]);
}

#[test]
fn a_file_system_without_attributes_is_asked_once() {
    let Some(mounted) = mount(true) else { return };
    for _ in 0..3 {
        for (name, _) in FILES {
            let entry = mounted.origin.stat(name.as_bytes()).unwrap();
            assert!(entry.extended.is_empty());
        }
    }
    let counts = mounted.session.counts();
    assert_eq!(counts["getxattr"], 1, "{counts:?}");
    assert_eq!(counts["listxattr"], 1, "{counts:?}");
    // One for each of twelve entries, and a few while it learns.
    assert!(counts["lookup"] <= 16, "{counts:?}");
}
