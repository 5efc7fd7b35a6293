//! A small file system in memory and a real mount of it in a mount namespace of the test's own,
//! which ends with the test's thread whatever happens.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "shared by test programs, each of which uses another part"
)]

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use atlas_core::{Kind, Timestamp};
use atlas_mount::mounts::{self, MountOptions};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, ROOT_NODE, ReadRequest, ReplyAttributes, ReplyData,
    ReplyEntry, ReplyExtended, ReplyFolder, ReplyStatistics, Session, SessionSettings, Statistics,
};

pub enum Content {
    File(Vec<u8>),
    Folder(Vec<(Vec<u8>, u64)>),
    Link(Vec<u8>),
    Other,
}

pub struct Node {
    pub attributes: NodeAttributes,
    pub content: Content,
}

/// Nodes by id, and the knobs of the tests.
pub struct Memory {
    nodes: HashMap<u64, Node>,
    /// Reads of these nodes are not answered: their replies go to `held`.
    hanging: HashSet<u64>,
    held: Sender<(ReadRequest, ReplyData)>,
    extended: bool,
    pub forgotten: AtomicU64,
}

pub type Held = Receiver<(ReadRequest, ReplyData)>;

impl Memory {
    pub fn new() -> (Self, Held) {
        let (held, receiver) = channel();
        let mut memory = Self {
            nodes: HashMap::new(),
            hanging: HashSet::new(),
            held,
            extended: false,
            forgotten: AtomicU64::new(0),
        };
        memory.insert(ROOT_NODE, Kind::Folder, 0o755, Content::Folder(Vec::new()));
        (memory, receiver)
    }

    fn insert(&mut self, id: u64, kind: Kind, permissions: u32, content: Content) {
        let size = match &content {
            Content::File(bytes) | Content::Link(bytes) => bytes.len() as u64,
            Content::Folder(_) | Content::Other => 0,
        };
        let time = Timestamp {
            seconds: 1_600_000_000,
            nanoseconds: 123_456_789,
        };
        let attributes = NodeAttributes {
            inode: id,
            kind,
            permissions,
            uid: 0,
            gid: 0,
            links: 1,
            size,
            blocks: size.div_ceil(512),
            block_size: 4096,
            device_number: 0,
            accessed: time,
            modified: time,
            changed: time,
        };
        self.nodes.insert(
            id,
            Node {
                attributes,
                content,
            },
        );
    }

    /// Adds an entry of the folder `parent` and returns its id.
    pub fn add(&mut self, parent: u64, name: &[u8], permissions: u32, content: Content) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let kind = match content {
            Content::File(_) => Kind::File,
            Content::Folder(_) => Kind::Folder,
            Content::Link(_) => Kind::Link,
            Content::Other => Kind::Fifo,
        };
        self.insert(id, kind, permissions, content);
        self.link(parent, name, id);
        id
    }

    pub fn link(&mut self, parent: u64, name: &[u8], id: u64) {
        let Content::Folder(children) = &mut self.nodes.get_mut(&parent).unwrap().content else {
            panic!("not a folder");
        };
        children.push((name.to_vec(), id));
    }

    pub fn file(&mut self, name: &str, bytes: &[u8]) -> u64 {
        self.add(
            ROOT_NODE,
            name.as_bytes(),
            0o644,
            Content::File(bytes.to_vec()),
        )
    }

    pub fn folder(&mut self, parent: u64, name: &[u8]) -> u64 {
        self.add(parent, name, 0o755, Content::Folder(Vec::new()))
    }

    pub fn attributes_of(&mut self, id: u64) -> &mut NodeAttributes {
        &mut self.nodes.get_mut(&id).unwrap().attributes
    }

    pub fn hang(&mut self, id: u64) {
        self.hanging.insert(id);
    }

    pub fn with_extended_attributes(&mut self) {
        self.extended = true;
    }

    fn children(&self, node: u64) -> Option<&[(Vec<u8>, u64)]> {
        match &self.nodes.get(&node)?.content {
            Content::Folder(children) => Some(children),
            _ => None,
        }
    }
}

impl Filesystem for Memory {
    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry) {
        let Some(children) = self.children(parent) else {
            return reply.error(libc::ENOTDIR);
        };
        match children.iter().find(|(child, _)| child == name) {
            Some((_, id)) => reply.found(*id, &self.nodes[id].attributes),
            None => reply.absent(),
        }
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        reply.attributes(&self.nodes[&node].attributes);
    }

    fn read_link(&self, node: u64, reply: ReplyData) {
        match &self.nodes[&node].content {
            Content::Link(target) => reply.data(target),
            _ => reply.error(libc::EINVAL),
        }
    }

    fn read(&self, request: ReadRequest, reply: ReplyData) {
        if self.hanging.contains(&request.node) {
            // Nobody may listen any more: then the reply is dropped and answers EIO.
            let _ = self.held.send((request, reply));
            return;
        }
        let Content::File(bytes) = &self.nodes[&request.node].content else {
            return reply.error(libc::EISDIR);
        };
        reply.data(slice(bytes, request));
    }

    fn read_folder(&self, request: FolderRequest, mut reply: ReplyFolder) {
        let Some(children) = self.children(request.node) else {
            return reply.error(libc::ENOTDIR);
        };
        for (index, (name, id)) in children.iter().enumerate().skip(request.offset as usize) {
            let attributes = &self.nodes[id].attributes;
            let node = Some((*id, attributes));
            if !reply.add(name, *id, Some(attributes.kind), index as u64 + 1, node) {
                break;
            }
        }
        reply.send();
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        reply.statistics(&Statistics {
            block_size: 4096,
            blocks: 1000,
            free_blocks: 250,
            available_blocks: 200,
            files: self.nodes.len() as u64,
            free_files: 0,
        });
    }

    fn forget(&self, _node: u64, lookups: u64) {
        self.forgotten.fetch_add(lookups, Ordering::Relaxed);
    }

    fn extended_attribute(&self, _node: u64, name: &[u8], reply: ReplyExtended) {
        match name {
            _ if !self.extended => reply.error(libc::ENOSYS),
            b"user.colour" => reply.value(b"green"),
            _ => reply.error(libc::ENODATA),
        }
    }

    fn extended_attribute_names(&self, _node: u64, reply: ReplyExtended) {
        if self.extended {
            reply.value(b"user.colour\0");
        } else {
            reply.error(libc::ENOSYS);
        }
    }
}

/// What a read of `bytes` has to answer.
pub fn slice(bytes: &[u8], request: ReadRequest) -> &[u8] {
    let start = bytes.len().min(request.offset as usize);
    let end = bytes.len().min(start + request.size as usize);
    &bytes[start..end]
}

/// Bytes that differ at every place.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect()
}

/// Whether real mounts can be tested here; says why not.
pub fn can_mount() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if mounts::open_device().is_err() {
        "no /dev/fuse"
    } else {
        return true;
    };
    println!("skipped: {reason}");
    false
}

/// How often anybody on this machine has dropped the kernel's caches, and with them what tests
/// count on.
fn dropped_caches() -> Vec<String> {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap();
    counters
        .lines()
        .filter(|line| line.starts_with("drop_"))
        .map(str::to_owned)
        .collect()
}

/// Makes a check that rests on the kernel's caches, again if they were dropped meanwhile.
pub fn undisturbed(check: impl Fn() -> Result<(), String>) {
    loop {
        let before = dropped_caches();
        let outcome = check();
        if outcome.is_ok() || dropped_caches() == before {
            return outcome.unwrap();
        }
    }
}

pub struct Mounted {
    /// What a keeper holds.
    pub device: OwnedFd,
    /// Keeps the mount alive, as an open file would.
    pub mount: Option<OwnedFd>,
    pub session: Option<Session>,
    pub path: PathBuf,
    folder: tempfile::TempDir,
}

impl Mounted {
    pub fn new(memory: Memory) -> Self {
        Self::with(memory, SessionSettings::default())
    }

    pub fn with(memory: Memory, settings: SessionSettings) -> Self {
        let mut mounted = Self::without_session();
        mounted.serve(memory, settings);
        mounted
    }

    /// A mount that nobody serves yet, in a namespace of this thread's own.
    pub fn without_session() -> Self {
        // SAFETY: only this thread and those it starts from now on get the new namespace, and no
        // code here shares a working directory between threads.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let private = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let folder = tempfile::Builder::new()
            .prefix("atlas-mount-")
            .tempdir()
            .unwrap();
        let path = folder.path().join("mnt");
        std::fs::create_dir(&path).unwrap();
        // Other users must get through to the mount.
        let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let device = mounts::open_device().unwrap();
        let options = MountOptions {
            name: "memory".into(),
            uid: 0,
            gid: 0,
            allow_other: true,
            subtype: "atlas-test".into(),
        };
        let mount = mounts::create(&device, &options).unwrap();
        attach(&mount, &path);
        Self {
            device,
            mount: Some(mount),
            session: None,
            path,
            folder,
        }
    }

    pub fn serve(&mut self, memory: Memory, settings: SessionSettings) {
        let device = self.device.try_clone().unwrap();
        self.session = Some(Session::start(device, Arc::new(memory), settings).unwrap());
    }

    pub fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A second empty folder beside the mount.
    pub fn other_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

pub fn attach(mount: &OwnedFd, path: &Path) {
    let folder = std::fs::File::open(path).unwrap();
    mounts::attach(mount.as_fd(), folder.as_fd()).unwrap();
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Before the folder is removed; a test may have unmounted it already.
        let _ = mounts::unmount(&self.path, true);
    }
}
