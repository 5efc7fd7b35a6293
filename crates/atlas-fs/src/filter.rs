//! Which entries of an origin belong to a data set.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use atlas_core::{Error, ErrorKind, Kind, Result, printable};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns of `--include` and `--exclude`.
///
/// A pattern without `/` is compared with the last name, at any depth; one with `/` with the whole
/// path below the root. `*` and `?` stop at `/`, `**` does not. What matches a folder covers all
/// beneath it. Excluding wins. Folders that are not excluded are always shown, since an included
/// file may be beneath them.
#[derive(Clone, Debug)]
pub struct Filter {
    include: Patterns,
    exclude: Patterns,
}

#[derive(Clone, Debug)]
struct Patterns {
    names: GlobSet,
    paths: GlobSet,
}

impl Filter {
    /// Fails with `Invalid` on a pattern that is empty or cannot be understood.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self {
            include: Patterns::new(include)?,
            exclude: Patterns::new(exclude)?,
        })
    }

    /// Whether the entry at `path` (relative to the root, no slash at its head) is shown. An entry
    /// of unknown kind is treated as a folder: it is to be asked again when its kind is known.
    pub fn admits(&self, path: &[u8], kind: Option<Kind>) -> bool {
        if path.is_empty() {
            return true;
        }
        if self.exclude.cover(path) {
            return false;
        }
        matches!(kind, None | Some(Kind::Folder))
            || self.include.is_empty()
            || self.include.cover(path)
    }
}

impl Patterns {
    fn new(patterns: &[String]) -> Result<Self> {
        let mut names = GlobSetBuilder::new();
        let mut paths = GlobSetBuilder::new();
        for pattern in patterns {
            let invalid = |reason: String| {
                let pattern = printable(pattern.as_bytes());
                Error::new(
                    ErrorKind::Invalid,
                    libc::EINVAL,
                    format!("read pattern {pattern}: {reason}"),
                )
            };
            // `train/` means the folder `train`, `/train` the one directly below the root.
            let body = pattern.strip_suffix('/').unwrap_or(pattern);
            let anchored = body.contains('/');
            let body = body.strip_prefix('/').unwrap_or(body);
            if body.is_empty() {
                return Err(invalid("it is empty".into()));
            }
            let glob = GlobBuilder::new(body)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| invalid(error.kind().to_string()))?;
            if anchored { &mut paths } else { &mut names }.add(glob);
        }
        let build = |set: GlobSetBuilder| {
            set.build().map_err(|error| {
                Error::new(
                    ErrorKind::Invalid,
                    libc::EINVAL,
                    format!("read patterns: {error}"),
                )
            })
        };
        Ok(Self {
            names: build(names)?,
            paths: build(paths)?,
        })
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty()
    }

    /// Whether a pattern matches the path or a folder above it.
    fn cover(&self, path: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at);
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            if self.names.is_match(as_path(&path[start..end]))
                || self.paths.is_match(as_path(&path[..end]))
            {
                return true;
            }
            start = end + 1;
        }
        false
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned =
            |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).unwrap()
    }

    const FILE: Option<Kind> = Some(Kind::File);
    const FOLDER: Option<Kind> = Some(Kind::Folder);

    #[test]
    fn without_patterns_all_is_shown() {
        let filter = filter(&[], &[]);
        assert!(filter.admits(b"", FOLDER));
        assert!(filter.admits(b"a/b\xff\nc", FILE));
    }

    #[test]
    fn a_pattern_without_slash_is_for_names_at_any_depth() {
        let filter = filter(&["*.wav"], &["tmp"]);
        assert!(filter.admits(b"a.wav", FILE));
        assert!(filter.admits(b"x/y/\xff.wav", FILE));
        assert!(!filter.admits(b"x/y/a.txt", FILE));
        assert!(!filter.admits(b"x/y/link", Some(Kind::Link)));
        assert!(filter.admits(b"x/y", FOLDER));
        assert!(!filter.admits(b"x/tmp", FOLDER));
        assert!(!filter.admits(b"x/tmp/deep/a.wav", FILE));
        assert!(filter.admits(b"x/tmp2/a.wav", FILE));
    }

    #[test]
    fn a_pattern_with_slash_is_for_whole_paths() {
        let filter = filter(
            &["train/*.wav", "/top.txt", "all/**"],
            &["train/old", "/bad/"],
        );
        assert!(filter.admits(b"train/a.wav", FILE));
        assert!(!filter.admits(b"x/train/a.wav", FILE));
        assert!(!filter.admits(b"train/x/a.wav", FILE));
        assert!(filter.admits(b"top.txt", FILE));
        assert!(!filter.admits(b"x/top.txt", FILE));
        assert!(filter.admits(b"all/x/y", FILE));
        assert!(!filter.admits(b"train/old", FOLDER));
        assert!(filter.admits(b"x/train/old", FOLDER));
        assert!(!filter.admits(b"bad", FOLDER));
        assert!(filter.admits(b"x/bad", FOLDER));
    }

    #[test]
    fn what_matches_a_folder_covers_all_beneath() {
        let filter = filter(&["speech"], &[]);
        assert!(filter.admits(b"en/speech/1/a", FILE));
        assert!(!filter.admits(b"en/music/1/a", FILE));
    }

    #[test]
    fn an_unknown_kind_may_be_a_folder() {
        assert!(filter(&["*.wav"], &[]).admits(b"x", None));
        assert!(!filter(&[], &["x"]).admits(b"x", None));
    }

    #[test]
    fn bad_patterns_are_refused() {
        for pattern in ["", "/", "[", "{a"] {
            let error = Filter::new(&[pattern.to_owned()], &[]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
        }
    }
}
