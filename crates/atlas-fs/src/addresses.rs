//! Which file an address belongs to: the ids of all files in the order of their addresses.
//!
//! The addresses themselves are the namespace's to know; of every 64th the index keeps a copy in
//! memory, so that a look-up reads one short piece of the file and nothing is mapped.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use atlas_core::{Address, Error, ErrorKind, Kind, Result};

use crate::{Namespace, Node, NodeId};

const MAGIC: [u8; 8] = *b"atlasadr";
const FORMAT: u32 = 1;
/// Magic, format, a word of reserve, number of files, checksum of all ids; then the ids.
const HEADER_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// Ids between two addresses that are kept in memory.
const STRIDE: usize = 64;
const CHUNK_BYTES: usize = STRIDE * ID_BYTES;

/// An index on the disk, checked when it was opened.
pub struct AddressIndex {
    file: File,
    count: usize,
    /// Address of the file at every `STRIDE`th position.
    landmarks: Vec<Address>,
}

impl AddressIndex {
    /// Writes the index of a namespace that is scanned completely to a new file, and syncs it.
    ///
    /// # Errors
    /// `Unsupported` for more nodes than fit, else what the disk says.
    pub fn write(namespace: &Namespace, path: &Path) -> Result<()> {
        let mut ids = Vec::new();
        let mut fits = true;
        namespace.for_each_file(|node| {
            if node.address.is_some() {
                fits &= u32::try_from(node.id.0).is_ok();
                ids.push(node.id.0 as u32);
            }
        });
        if !fits {
            let message = "write the index of addresses: too many files";
            return Err(Error::new(ErrorKind::Unsupported, libc::EFBIG, message));
        }
        let address = |id: &u32| {
            let node = namespace.node(NodeId(u64::from(*id)));
            node.and_then(|node| node.address)
        };
        // Stable, because it goes fast over what is sorted already: addresses follow the listing.
        ids.sort_by_key(address);
        let failed = |error: std::io::Error| Error::from_io(&error, "write the index of addresses");
        let checksum =
            (ids.iter()).fold(0, |sum, id| crc32c::crc32c_append(sum, &id.to_le_bytes()));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut writer = BufWriter::new(file);
        let write = |writer: &mut BufWriter<File>| {
            writer.write_all(&header(ids.len(), checksum))?;
            for id in &ids {
                writer.write_all(&id.to_le_bytes())?;
            }
            writer.flush()?;
            writer.get_ref().sync_all()
        };
        write(&mut writer).map_err(failed)
    }

    /// Opens what `write` made of the same namespace, and compares it with its checksum.
    ///
    /// # Errors
    /// `Corrupt` for any other file, and mostly for the index of another namespace: only every
    /// 64th file is looked up, so one of fewer files may pass. Keep both in one place.
    pub fn open(path: &Path, namespace: &Namespace) -> Result<Self> {
        let failed = |error: std::io::Error| Error::from_io(&error, "open the index of addresses");
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let ids = (length.saturating_sub(HEADER_BYTES as u64)) as usize;
        let count = ids / ID_BYTES;
        let mut first = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 || !ids.is_multiple_of(ID_BYTES) {
            return Err(corrupt());
        }
        file.read_exact_at(&mut first, 0).map_err(failed)?;
        let mut index = Self {
            file,
            count,
            landmarks: Vec::with_capacity(count.div_ceil(STRIDE)),
        };
        let mut checksum = 0;
        for chunk in 0..count.div_ceil(STRIDE) {
            let ids = index.chunk(chunk)?;
            for id in &ids {
                checksum = crc32c::crc32c_append(checksum, &(id.0 as u32).to_le_bytes());
            }
            let node = ids.first().and_then(|id| namespace.node(*id));
            let address = node.and_then(|node| node.address).ok_or_else(corrupt)?;
            index.landmarks.push(address);
        }
        if first == header(count, checksum) && index.landmarks.is_sorted() {
            Ok(index)
        } else {
            Err(corrupt())
        }
    }

    /// How many files have an address.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ids at the positions of one stride.
    fn chunk(&self, chunk: usize) -> Result<Vec<NodeId>> {
        let first = chunk * STRIDE;
        let count = STRIDE.min(self.count.saturating_sub(first));
        let mut bytes = [0; CHUNK_BYTES];
        let bytes = &mut bytes[..count * ID_BYTES];
        let offset = (HEADER_BYTES + first * ID_BYTES) as u64;
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| Error::from_io(&error, "read the index of addresses"))?;
        let id = |bytes: &[u8; ID_BYTES]| NodeId(u64::from(u32::from_le_bytes(*bytes)));
        Ok(bytes.as_chunks().0.iter().map(id).collect())
    }

    /// The files with bytes in `start..end`, in the order of their addresses. Ends after the first
    /// error: what comes then is not known.
    pub fn files_in<'a>(
        &'a self,
        namespace: &'a Namespace,
        start: Address,
        end: Address,
    ) -> impl Iterator<Item = Result<Node>> + 'a {
        let after = self
            .landmarks
            .partition_point(|landmark| *landmark <= start);
        let first = after.saturating_sub(1);
        let last = self.landmarks.len();
        let mut failed = false;
        (first..last)
            .flat_map(move |chunk| {
                let ids = match self.chunk(chunk) {
                    Ok(ids) => ids.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                ids.into_iter().map(|id| {
                    let node = namespace.node(id?);
                    node.filter(|node| node.address.is_some() && node.attributes.kind == Kind::File)
                        .ok_or_else(corrupt)
                })
            })
            .take_while(move |node| {
                let go_on = !failed
                    && node.as_ref().map_or(true, |node| {
                        node.address
                            .is_some_and(|address| start < end && address < end)
                    });
                failed |= node.is_err();
                go_on
            })
            .filter(move |node| {
                node.as_ref().map_or(true, |node| {
                    let end = node
                        .address
                        .map_or(0, |address| address.0.saturating_add(node.attributes.size));
                    end > start.0
                })
            })
    }
}

fn header(count: usize, checksum: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..24].copy_from_slice(&(count as u64).to_le_bytes());
    bytes[24..28].copy_from_slice(&checksum.to_le_bytes());
    let of_header = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&of_header.to_le_bytes());
    bytes
}

fn corrupt() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        libc::EIO,
        "open the index of addresses: it is damaged, or another data set's",
    )
}
