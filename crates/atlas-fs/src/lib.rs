//! The namespace of a data set, and what a path in it means. Knows nothing of FUSE.
