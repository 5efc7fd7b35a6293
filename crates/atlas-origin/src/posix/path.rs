//! The form of paths, and how long ones are cut.

use atlas_core::{Error, ErrorKind, Result, printable};

/// The longest path that one system call takes, without its terminating zero.
pub(super) const LONGEST_PATH: usize = libc::PATH_MAX as usize - 1;

/// # Errors
/// `Invalid` for anything but names joined by single slashes; the empty path is the root's.
pub(super) fn check_path(path: &[u8]) -> Result<()> {
    if path.is_empty() {
        Ok(())
    } else {
        path.split(|&byte| byte == b'/').try_for_each(check_name)
    }
}

/// # Errors
/// `Invalid` for what cannot be the name of an entry, such as ".." or what holds a slash.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let plain =
        !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| b"/\0".contains(byte));
    if plain {
        return Ok(());
    }
    let message = format!("\"{}\" is not the name of an entry", printable(name));
    Err(Error::new(ErrorKind::Invalid, libc::EINVAL, message))
}

/// The folder that a path lies in, and its last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Cuts off the front of a path as much as one system call takes: whole names, and what is left.
/// `None` when all of it fits, or when a single name does not.
pub(super) fn cut(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= LONGEST_PATH {
        return None;
    }
    let slash = path[..=LONGEST_PATH]
        .iter()
        .rposition(|&byte| byte == b'/')?;
    Some((&path[..slash], &path[slash + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for good in [b"".as_slice(), b"a", b"a/b", b"...", b"a\nb/\xff", b" "] {
            assert!(check_path(good).is_ok(), "{good:?}");
        }
        for bad in [
            b"/".as_slice(),
            b"/a",
            b"a/",
            b"a//b",
            b".",
            b"a/..",
            b"../a",
            b"a\0b",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn long_paths_are_cut_between_names() {
        let path = [[b'n'; 255].as_slice(); 30].join(&b'/');
        let (front, rest) = cut(&path).unwrap();
        assert_eq!((front.len(), rest.len()), (16 * 256 - 1, 14 * 256 - 1));
        assert_eq!(cut(rest), None);
        assert_eq!(cut(&[b'n'; 5000]), None);
        assert_eq!(cut(&path[..LONGEST_PATH]), None);
    }
}
