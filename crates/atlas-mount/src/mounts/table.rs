//! The mount table.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use atlas_core::{Error, Result};

use super::Device;

/// Of the calling thread: a thread may have left the mount namespace of its process.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// One line of the kernel's `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub id: u64,
    pub parent: u64,
    pub device: Device,
    /// The folder of the file system that is shown here.
    pub root: PathBuf,
    /// Where it is attached.
    pub path: PathBuf,
    pub read_only: bool,
    /// With the subtype, as in `fuse.atlas`.
    pub kind: String,
    pub source: OsString,
}

/// All mounts that the calling thread can see, in the kernel's order: of several on one path, the last
/// is the one in sight.
pub fn table() -> Result<Vec<MountEntry>> {
    let text = std::fs::read(TABLE)
        .map_err(|error| Error::from_io(&error, format_args!("read {TABLE}")))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// `None` for a line in another form: a newer kernel may have one that is not for us.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let device = Device {
        major: number(device.next()?)?.try_into().ok()?,
        minor: number(device.next()?)?.try_into().ok()?,
    };
    let root = PathBuf::from(unescape(fields.next()?));
    let path = PathBuf::from(unescape(fields.next()?));
    let read_only = fields
        .next()?
        .split(|byte| *byte == b',')
        .any(|option| option == b"ro");
    // Any number of optional fields, closed by a dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = unescape(fields.next()?).into_string().ok()?;
    let source = unescape(fields.next()?);
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        path,
        read_only,
        kind,
        source,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\ooo` for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = (*byte == b'\\')
            .then(|| after.get(..3).and_then(octal))
            .flatten();
        match octal {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[3..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields() {
        let line =
            b"36 35 98:0 /a\\040b /m\\011n\\134\xff rw,noatime master:1 shared:2 - fuse.atlas s ro";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.parent), (36, 35));
        assert_eq!(
            entry.device,
            Device {
                major: 98,
                minor: 0
            }
        );
        assert_eq!(entry.root, Path::new("/a b"));
        assert_eq!(entry.path.as_os_str().as_bytes(), b"/m\tn\\\xff");
        assert_eq!(
            (entry.kind.as_str(), entry.source.to_str()),
            ("fuse.atlas", Some("s"))
        );
        assert!(!entry.read_only);
    }

    #[test]
    fn no_optional_field_and_foreign_lines() {
        assert!(parse(b"1 0 0:1 / / ro - tmpfs tmpfs rw").unwrap().read_only);
        for line in [
            &b""[..],
            b"x",
            b"1 0 0:1 / / ro",
            b"1 0 01 / / ro - tmpfs t rw",
        ] {
            assert_eq!(parse(line), None);
        }
        assert_eq!(unescape(b"\\9z\\04"), "\\9z\\04");
    }

    #[test]
    fn the_root_is_in_the_table() {
        assert!(
            table()
                .unwrap()
                .iter()
                .any(|entry| entry.path == Path::new("/"))
        );
    }
}
