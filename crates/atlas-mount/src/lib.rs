//! FUSE sessions and mounts.
