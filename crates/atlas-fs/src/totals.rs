//! What a namespace holds in all, and which of its links lead out of it.

use atlas_core::Kind;

use crate::Node;

/// How many of the leaving links are named.
const LEAVING_NAMES: usize = 20;

/// Sums over all nodes that are Ready, the root left out. A file with several names counts once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    /// Those of the files that have no bytes.
    pub empty_files: u64,
    pub folders: u64,
    pub links: u64,
    /// Fifos, sockets and device nodes.
    pub others: u64,
    /// Of all files: their sizes.
    pub bytes: u64,
    /// Links that are absolute, or climb above the root: reads through them bypass the cache.
    pub leaving_links: u64,
    /// The paths of some of them.
    pub leaving_names: Vec<Vec<u8>>,
}

impl Totals {
    pub(crate) fn add(&mut self, node: &Node) {
        match node.attributes.kind {
            Kind::File => {
                self.files += 1;
                self.empty_files += u64::from(node.attributes.size == 0);
                self.bytes = self.bytes.saturating_add(node.attributes.size);
            }
            Kind::Folder => self.folders += 1,
            Kind::Link => self.links += 1,
            _ => self.others += 1,
        }
    }

    pub(crate) fn add_leaving(&mut self, path: impl FnOnce() -> Vec<u8>) {
        self.leaving_links += 1;
        if self.leaving_names.len() < LEAVING_NAMES {
            self.leaving_names.push(path());
        }
    }
}

/// Whether a link in a folder `depth` levels below the root leads out of the data set by its text
/// alone. A link through another link may still do so.
pub(crate) fn leaves(target: &[u8], depth: usize) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = depth;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leaves_by_its_text() {
        assert!(leaves(b"/etc/passwd", 5));
        assert!(leaves(b"..", 0));
        assert!(leaves(b"../../x", 1));
        assert!(leaves(b"a/../../x", 0));
        assert!(!leaves(b"../x", 1));
        assert!(!leaves(b"a//./../x", 0));
        assert!(!leaves(b"...", 0));
        assert!(!leaves(b"", 0));
    }
}
