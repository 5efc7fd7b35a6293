//! The folder as a file system that takes its time.
//!
//! Each metadata call (lookup, attributes, open, target of a link, statistics, a batch of names)
//! costs one operation and one latency, each read its bytes and one latency. So the path of a file
//! costs one operation a level, `stat` nothing more, `open` one more, `fstat` of an open file one.
//! Names in a folder come without attributes, as a Lustre client gets them.
//!
//! Free is what a Lustre client would not ask for: attributes right after the lookup that brings
//! them (the kernel asks again, to check permissions, because it may keep nothing), a read at the
//! end of a file, a list at the end of a folder, closing.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atlas_core::{Kind, Timestamp};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, OpenRequest, ReadRequest, ReplyAttributes,
    ReplyData, ReplyEntry, ReplyFolder, ReplyOpen, ReplyStatistics, Statistics,
};
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::nodes::{Nodes, SourceId};
use crate::schedule::{Moment, Schedule};
use crate::source::Source;

/// Bytes of names asked of the source at once.
const NAMES_BYTES: usize = 32 << 10;
/// Most files kept open for readers.
const MOST_FILES: u64 = 4096;

pub(crate) struct SlowFilesystem {
    source: Source,
    schedule: Schedule,
    nodes: Mutex<Nodes>,
    /// Files that readers have open, so that they keep them when the source replaces them; those
    /// beyond `most_files` are opened again for each read (handle 0).
    files: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    most_files: usize,
    next_handle: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
}

type Outcome<T> = Result<T, Errno>;

impl SlowFilesystem {
    pub(crate) fn new(source: Source, schedule: Schedule) -> Outcome<Self> {
        let root = rustix::fs::fstat(source.root())?;
        let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Self {
            source,
            schedule,
            nodes: Mutex::new(Nodes::new(source_id(&root))),
            files: Mutex::default(),
            most_files: (open_files / 4).min(MOST_FILES) as usize,
            next_handle: AtomicU64::new(1),
            operations: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        })
    }

    /// Waits until a metadata call that came at `arrival` is done.
    fn pay_operation(&self, arrival: Moment) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.schedule.operation(arrival).wait();
    }

    /// Opens what a node stands for; ESTALE if something else is in its place now.
    fn open_node(&self, node: u64, flags: OFlags) -> Outcome<(OwnedFd, Stat)> {
        let (path, source) = {
            let nodes = self.nodes.lock();
            (
                nodes.path(node).ok_or(Errno::STALE)?,
                nodes.source(node).ok_or(Errno::STALE)?,
            )
        };
        let file = self.source.open(&path, flags)?;
        let status = rustix::fs::fstat(&file)?;
        if source_id(&status) != source {
            return Err(Errno::STALE);
        }
        Ok((file, status))
    }

    fn open_for_reading(&self, node: u64, flags: OFlags) -> Outcome<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK;
        self.open_node(node, flags).map(|(file, _)| file)
    }

    fn find(&self, parent: u64, name: &[u8]) -> Outcome<(u64, NodeAttributes)> {
        let mut path = self.nodes.lock().path(parent).ok_or(Errno::STALE)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let file = self.source.open(&path, OFlags::PATH)?;
        let status = rustix::fs::fstat(&file)?;
        let attributes = attributes(&status)?;
        let mut nodes = self.nodes.lock();
        let node = nodes
            .found(parent, name, source_id(&status))
            .ok_or(Errno::STALE)?;
        Ok((node, attributes))
    }

    fn file(&self, request: &ReadRequest) -> Outcome<Arc<OwnedFd>> {
        if let Some(file) = self.files.lock().get(&request.handle) {
            return Ok(Arc::clone(file));
        }
        self.open_for_reading(request.node, OFlags::empty())
            .map(Arc::new)
    }

    fn open_file(&self, node: u64) -> Outcome<u64> {
        let file = self.open_for_reading(node, OFlags::empty())?;
        let mut files = self.files.lock();
        if files.len() >= self.most_files {
            return Ok(0);
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        files.insert(handle, Arc::new(file));
        Ok(handle)
    }

    fn list(&self, request: &FolderRequest, reply: &mut ReplyFolder) -> Outcome<bool> {
        let folder = self.open_for_reading(request.node, OFlags::DIRECTORY)?;
        if request.offset > 0 {
            rustix::fs::seek(&folder, SeekFrom::Start(request.offset))?;
        }
        let mut buffer = [MaybeUninit::uninit(); NAMES_BYTES];
        let mut names = RawDir::new(folder, &mut buffer);
        let mut any = false;
        while let Some(entry) = names.next() {
            let entry = entry?;
            let (name, next) = (entry.file_name().to_bytes(), entry.next_entry_cookie());
            if !reply.add(name, entry.ino(), kind(entry.file_type()), next, None) {
                break;
            }
            any = true;
        }
        Ok(any)
    }
}

impl Filesystem for SlowFilesystem {
    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry) {
        let arrival = Moment::now();
        let outcome = self.find(parent, name);
        self.pay_operation(arrival);
        match outcome {
            Ok((node, attributes)) => reply.found(node, &attributes),
            Err(Errno::NOENT) => reply.absent(),
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        let arrival = Moment::now();
        let outcome = self
            .open_node(node, OFlags::PATH)
            .and_then(|(_, status)| attributes(&status));
        let fresh = self.nodes.lock().take_fresh(node);
        if !fresh {
            self.pay_operation(arrival);
        }
        match outcome {
            Ok(attributes) => reply.attributes(&attributes),
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn read_link(&self, node: u64, reply: ReplyData) {
        let arrival = Moment::now();
        let outcome = self
            .open_node(node, OFlags::PATH)
            .and_then(|(link, _)| rustix::fs::readlinkat(link, "", Vec::new()));
        self.pay_operation(arrival);
        match outcome {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn read(&self, request: ReadRequest, reply: ReplyData) {
        let arrival = Moment::now();
        let file = match self.file(&request) {
            Ok(file) => file,
            Err(errno) => return reply.error(errno.raw_os_error()),
        };
        reply.fill(request.size as usize, |buffer| {
            let mut filled = 0;
            while filled < buffer.len() {
                let offset = request.offset + filled as u64;
                match rustix::io::pread(&file, &mut buffer[filled..], offset) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.raw_os_error()),
                }
            }
            if filled > 0 {
                self.reads.fetch_add(1, Ordering::Relaxed);
                self.read_bytes.fetch_add(filled as u64, Ordering::Relaxed);
                self.schedule.transfer(arrival, filled as u64).wait();
            }
            Ok(filled)
        });
    }

    fn read_folder(&self, request: FolderRequest, mut reply: ReplyFolder) {
        let arrival = Moment::now();
        match self.list(&request, &mut reply) {
            Ok(any) => {
                if any {
                    self.pay_operation(arrival);
                }
                reply.send();
            }
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        let arrival = Moment::now();
        let outcome = rustix::fs::fstatvfs(self.source.root());
        self.pay_operation(arrival);
        match outcome {
            Ok(source) => reply.statistics(&Statistics {
                block_size: u32::try_from(source.f_frsize).unwrap_or(4096),
                blocks: source.f_blocks,
                free_blocks: source.f_bfree,
                available_blocks: source.f_bavail,
                files: source.f_files,
                free_files: source.f_ffree,
            }),
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn open(&self, request: OpenRequest, reply: ReplyOpen) {
        let arrival = Moment::now();
        let outcome = if request.folder {
            // Folders are opened for each batch of names.
            Ok(0)
        } else {
            self.open_file(request.node)
        };
        self.pay_operation(arrival);
        match outcome {
            Ok(handle) => reply.opened(handle),
            Err(errno) => reply.error(errno.raw_os_error()),
        }
    }

    fn release(&self, _node: u64, handle: u64) {
        let file = self.files.lock().remove(&handle);
        drop(file);
    }

    fn forget(&self, node: u64, lookups: u64) {
        self.nodes.lock().forget(node, lookups);
    }
}

fn source_id(status: &Stat) -> SourceId {
    (status.st_dev, status.st_ino)
}

fn attributes(status: &Stat) -> Outcome<NodeAttributes> {
    let time = |seconds: i64, nanoseconds: u64| Timestamp {
        seconds,
        nanoseconds: nanoseconds as u32,
    };
    Ok(NodeAttributes {
        inode: status.st_ino,
        kind: Kind::from_mode(status.st_mode).ok_or(Errno::IO)?,
        permissions: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        links: u32::try_from(status.st_nlink).unwrap_or(u32::MAX),
        size: status.st_size as u64,
        blocks: status.st_blocks as u64,
        block_size: 4096,
        device_number: status.st_rdev,
        accessed: time(status.st_atime, status.st_atime_nsec),
        modified: time(status.st_mtime, status.st_mtime_nsec),
        changed: time(status.st_ctime, status.st_ctime_nsec),
    })
}

const fn kind(kind: FileType) -> Option<Kind> {
    match kind {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Folder),
        FileType::Symlink => Some(Kind::Link),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharacterDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}
