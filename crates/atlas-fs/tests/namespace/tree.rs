//! An endless origin that follows from its paths.

use atlas_core::{Attributes, ExtendedAttribute, Kind};

use crate::support::attributes as plain;

fn hash(path: &[u8]) -> u64 {
    path.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    }) >> 7
}

pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        name.to_vec()
    } else {
        [folder, b"/", name].concat()
    }
}

/// Folders begin with d, files with f, names of files that have several with h, links with l.
pub(crate) fn names(folder: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for (letter, least, most) in [('d', 2, 3), ('f', 1, 9), ('h', 0, 3), ('l', 0, 2)] {
        let count = least + hash(&join(folder, &[letter as u8])) % (most - least + 1);
        names.extend((0..count).map(|number| format!("{letter}{number}").into_bytes()));
    }
    names
}

pub(crate) fn entry(path: &[u8]) -> (Attributes, Option<Vec<u8>>) {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
    let inode = 1000 + hash(path);
    match name[0] {
        b'd' => (plain(Kind::Folder, inode), None),
        b'f' => (
            Attributes {
                size: hash(path) % 20_000,
                ..plain(Kind::File, inode)
            },
            None,
        ),
        b'h' => {
            let inode = hash(path) % 30;
            let size = inode * 777;
            (
                Attributes {
                    links: 3,
                    size,
                    ..plain(Kind::File, inode)
                },
                None,
            )
        }
        _ => (plain(Kind::Link, inode), Some(path.to_vec())),
    }
}

/// Some files have a set of their own, more have one of a few.
pub(crate) fn extended(path: &[u8]) -> Vec<ExtendedAttribute> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
    let value = match hash(path) % 7 {
        0 => path.to_vec(),
        few @ 1..4 => vec![b'x'; few as usize],
        _ => return Vec::new(),
    };
    if name[0] != b'f' {
        return Vec::new();
    }
    let name = b"user.set".to_vec();
    vec![ExtendedAttribute { name, value }]
}
