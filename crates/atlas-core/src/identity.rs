//! On whose behalf something is read.

/// Numeric user, group and supplementary groups. No name service is ever asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}
