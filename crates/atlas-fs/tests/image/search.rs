//! Looks names up as the kernel does, `fs/erofs/namei.c`: by halves, first the blocks of a folder,
//! then the names in one. `erofs-rs` looks at every block, so it finds what the kernel would not.

use crate::view::Tree;

const BLOCK: usize = 4096;
const ENTRY: usize = 12;

pub(crate) struct Search<'a> {
    image: &'a [u8],
    inodes_at: usize,
    pub(crate) root: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(image: &'a [u8]) -> Self {
        let mut search = Self {
            image,
            inodes_at: 0,
            root: 0,
        };
        search.inodes_at = search.number(1024 + 40, 4) as usize * BLOCK;
        search.root = search.number(1024 + 14, 2);
        search
    }

    fn number(&self, at: usize, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.image[at..at + bytes]);
        u64::from_le_bytes(word)
    }

    fn blocks(&self, folder: u64) -> &'a [u8] {
        let inode = self.inodes_at + folder as usize * 32;
        let start = self.number(inode + 16, 4) as usize * BLOCK;
        &self.image[start..start + self.number(inode + 8, 8) as usize]
    }

    /// The number of the inode of `name`.
    pub(crate) fn find(&self, folder: u64, name: &[u8]) -> Option<u64> {
        let blocks = self.blocks(folder);
        let block = |index: usize| {
            let end = blocks.len().min((index + 1) * BLOCK);
            &blocks[index * BLOCK..end]
        };
        let count = blocks.len().div_ceil(BLOCK);
        let after = first_without(count, |index| name_in(block(index), 0) <= name);
        let block = block(after.checked_sub(1)?);
        let entries = usize::from(name_offset(block, 0)) / ENTRY;
        let index = first_without(entries, |index| name_in(block, index) < name);
        if index == entries || name_in(block, index) != name {
            return None;
        }
        let at = index * ENTRY;
        Some(u64::from_le_bytes(block[at..at + 8].try_into().unwrap()))
    }

    /// Every name of the tree is found, "." and ".." too, and none of them in another folder's
    /// place; names that are not there are not.
    pub(crate) fn check(&self, tree: &Tree) {
        let mut numbers = vec![self.root];
        for (position, entry) in tree.iter().enumerate() {
            let parent = numbers[entry.parent];
            if position > 0 {
                let found = self.find(parent, &entry.name);
                numbers.push(found.unwrap_or_else(|| panic!("{:?} is not found", entry.name)));
            }
            let number = numbers[position];
            assert_eq!(number, numbers[entry.first_name], "{:?}", entry.name);
            if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                assert_eq!(self.find(number, b"."), Some(number), "{:?}", entry.name);
                assert_eq!(self.find(number, b".."), Some(parent), "{:?}", entry.name);
                // Sort before and after all others; "/" is in no name.
                for absent in [b"".as_slice(), b"\0", b"/", b"./", b"../", &[0xff; 256]] {
                    assert_eq!(self.find(number, absent), None, "{absent:?}");
                }
            }
        }
    }
}

/// The first of `count` that does not come before, by halves.
fn first_without(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn name_offset(block: &[u8], index: usize) -> u16 {
    let at = index * ENTRY + 8;
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The last name of a block ends with the block or before its first zero.
fn name_in(block: &[u8], index: usize) -> &[u8] {
    let start = usize::from(name_offset(block, index));
    let entries = usize::from(name_offset(block, 0)) / ENTRY;
    if index + 1 < entries {
        return &block[start..usize::from(name_offset(block, index + 1))];
    }
    let name = &block[start..];
    let end = name.iter().position(|byte| *byte == 0);
    &name[..end.unwrap_or(name.len())]
}
