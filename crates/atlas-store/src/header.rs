//! The first page of every file of a volume: what it is and in which format.

use std::fs::File;
use std::os::unix::fs::FileExt;

use atlas_core::{Error, ErrorKind, PAGE_BYTES, Result};

/// Bytes before the first byte of a file's contents: a page, so that contents stay page-aligned.
pub(crate) const HEADER_BYTES: u64 = PAGE_BYTES;

/// Names a kind of file; eight bytes that no other kind has.
pub type Magic = [u8; 8];

/// Bytes that magic, version and their checksum take at the start of a file.
const STAMP_BYTES: usize = 16;

fn stamp(magic: Magic, version: u32) -> [u8; STAMP_BYTES] {
    let mut bytes = [0; STAMP_BYTES];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Marks `file` as one of kind `magic` in format `version`. The last step of a creation: a file
/// whose creation was cut short carries no stamp and is refused as damaged.
pub(crate) fn write(file: &File, name: &str, magic: Magic, version: u32) -> Result<()> {
    file.write_all_at(&stamp(magic, version), 0)
        .map_err(|error| Error::from_io(&error, format_args!("write header of {name}")))
}

/// Refuses a file of another kind, a damaged one and one in another format.
///
/// # Errors
/// `Corrupt` for a file that is none of ours or damaged, `Unsupported` for another format.
pub(crate) fn check(file: &File, name: &str, magic: Magic, version: u32) -> Result<()> {
    let mut bytes = [0; STAMP_BYTES];
    let damaged = || {
        Error::new(
            ErrorKind::Corrupt,
            libc::EIO,
            format!("open {name}: damaged header"),
        )
    };
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(damaged()),
        Err(error) => {
            return Err(Error::from_io(
                &error,
                format_args!("read header of {name}"),
            ));
        }
    }
    let found = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if bytes != stamp(magic, found) {
        return Err(damaged());
    }
    if found != version {
        return Err(Error::new(
            ErrorKind::Unsupported,
            libc::EIO,
            format!("open {name}: written in format {found}, this version reads format {version}"),
        ));
    }
    Ok(())
}
