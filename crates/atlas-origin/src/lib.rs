//! Where the bytes come from: the origin trait, POSIX folders, reader threads.
