//! A second opinion: images as the crate `erofs-rs` reads them, which shares no line with the
//! writer.

use std::cell::RefCell;
use std::fs::File;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::rc::Rc;

use erofs_rs::EroFS;
use erofs_rs::backend::Image;
use erofs_rs::types::{DirentFileType, Inode};

use crate::view::{Entry, FirstNames, Tree, probes};

const ZEROS: [u8; 4096] = [0; 4096];

/// Where reads of files went: device and byte.
type Reads = Rc<RefCell<Vec<(u16, u64)>>>;

/// The image itself, or a device of it, which notes what it is asked for and holds zeros.
pub(crate) enum Source {
    Image(Vec<u8>),
    Device { number: u16, reads: Reads },
}

impl Image for Source {
    fn get<R: RangeBounds<u64>>(&self, range: R) -> Option<&[u8]> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        match self {
            Self::Image(bytes) => bytes.get(start as usize..end as usize),
            Self::Device { number, reads } => {
                reads.borrow_mut().push((*number, start));
                ZEROS.get(..(end - start) as usize)
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Image(bytes) => bytes.len() as u64,
            Self::Device { .. } => u64::MAX,
        }
    }
}

pub(crate) struct Reader {
    image: EroFS<Source>,
    reads: Reads,
}

pub(crate) fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl Reader {
    pub(crate) fn new(image: &File, devices: usize) -> Self {
        let reads = Reads::default();
        let device = |number| Source::Device {
            number: number as u16,
            reads: reads.clone(),
        };
        let devices = (1..=devices).map(device).collect();
        let image = Source::Image(bytes_of(image));
        Self {
            image: EroFS::new_with_devices(image, devices).unwrap(),
            reads,
        }
    }

    /// Inodes that the image says it has.
    pub(crate) fn inodes(&self) -> u64 {
        self.image.super_block().inos
    }

    /// Bytes of each device, as the image says.
    pub(crate) fn devices(&self) -> Vec<u64> {
        let devices = self.image.devices().iter();
        devices.map(|device| device.blocks * 4096).collect()
    }

    /// Bytes of the names of a folder of the root, and of the root for an empty name.
    pub(crate) fn folder_bytes(&self, name: &[u8]) -> u64 {
        if name.is_empty() {
            return self.root().data_size();
        }
        let mut names = self
            .image
            .read_dir("/")
            .unwrap()
            .map(|entry| entry.unwrap());
        let found = names.find(|entry| entry.dir_entry.file_name() == name);
        found.unwrap().inode.data_size()
    }

    fn root(&self) -> Inode {
        let number = self.image.super_block().root_inode_id();
        self.image.get_inode(number).unwrap()
    }

    pub(crate) fn tree(&self) -> Tree {
        let root = self.root();
        let mut first_names = FirstNames::default();
        let first_name = first_names.of(root.id(), 0);
        let mut tree = vec![self.entry(0, Vec::new(), first_name, root)];
        let mut folders = vec![0];
        for found in self.image.walk_dir("/").unwrap() {
            let found = found.unwrap();
            let position = tree.len();
            folders.truncate(found.depth);
            let parent = *folders.last().unwrap();
            let first_name = first_names.of(found.inode.id(), position);
            let name = found.dir_entry.file_name().to_vec();
            assert_eq!(
                found.dir_entry.file_type(),
                hint(&found.inode),
                "kind of {name:?}"
            );
            tree.push(self.entry(parent, name, first_name, found.inode));
            if found.inode.is_dir() {
                folders.push(position);
            }
        }
        tree
    }

    fn entry(&self, parent: usize, name: Vec<u8>, first_name: usize, inode: Inode) -> Entry {
        let target = inode.is_symlink().then(|| {
            let target = self.image.read_link_inode(inode).unwrap();
            target.as_bytes().to_vec()
        });
        Entry {
            parent,
            name,
            first_name,
            mode: inode.file_type().as_raw_mode() | inode.permissions().mode(),
            uid: inode.uid(),
            gid: inode.gid(),
            links: inode.nlink(),
            size: if inode.is_dir() { 0 } else { inode.data_size() },
            modified: inode.modified_unix(),
            target: target.unwrap_or_default(),
            device: inode.device(),
            places: self.places(inode),
            extended: self.image.xattrs_inode(inode).unwrap(),
        }
    }

    fn places(&self, inode: Inode) -> Vec<(u16, u64)> {
        if !inode.is_file() {
            return Vec::new();
        }
        let file = self.image.open_inode_file(inode).unwrap();
        self.reads.borrow_mut().clear();
        for probe in probes(inode.data_size()) {
            assert_eq!(file.read_at(&mut [0], probe).unwrap(), 1);
        }
        self.reads.take()
    }
}

/// What the entry of a folder says of the kind of a file.
fn hint(inode: &Inode) -> DirentFileType {
    let kind = inode.file_type();
    if kind.is_dir() {
        DirentFileType::Directory
    } else if kind.is_file() {
        DirentFileType::RegularFile
    } else if kind.is_symlink() {
        DirentFileType::Symlink
    } else if kind.is_fifo() {
        DirentFileType::Fifo
    } else if kind.is_socket() {
        DirentFileType::Socket
    } else if kind.is_char_device() {
        DirentFileType::CharacterDevice
    } else {
        DirentFileType::BlockDevice
    }
}
