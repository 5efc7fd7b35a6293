//! Acting with the rights of a data set's creator.
//!
//! Only what the kernel looks at for access to files is changed: the file-system user and group,
//! the supplementary groups and the capabilities, each of them per thread. The real and effective
//! ids stay those of the process, since another user could otherwise send signals to the thread
//! and so kill or stop the whole process.

use std::thread;

use atlas_core::{Error, ErrorKind, Identity, Result};
use rustix::process::getgroups;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, capabilities, set_capabilities, set_thread_groups,
};

/// Capabilities that override the permissions of files.
const OVERRIDES: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER);

/// The kernel refuses this id and answers with the present one.
const NO_ID: u32 = u32::MAX;

/// Runs `action` with the file access of `identity`, and waits for it: in place when the calling
/// thread has it already, else on a thread of its own that ends with the action.
///
/// # Errors
/// `Denied` when this process may not take on the identity, `Io` when no thread can be started.
/// The action has not run then.
pub fn as_identity<T: Send>(identity: &Identity, action: impl FnOnce() -> T + Send) -> Result<T> {
    if is_current(identity)? {
        return Ok(action());
    }
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("atlas-identity".into())
            .spawn_scoped(scope, || assume(identity).map(|()| action()))
            .map_err(|error| Error::from_io(&error, "start a thread"))?;
        worker
            .join()
            .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// Gives the calling thread, for the rest of its life, the file access of `identity`.
///
/// # Errors
/// `Denied` when this process may not; the thread must then not be used on anybody's behalf.
pub(crate) fn assume(identity: &Identity) -> Result<()> {
    if is_current(identity)? {
        return Ok(());
    }
    if identity.uid == NO_ID || identity.gid == NO_ID {
        return Err(refused(identity, libc::EINVAL));
    }
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|&group| Gid::from_raw(group))
        .collect();
    // Groups first: changing them needs the capabilities that the last step gives away.
    set_thread_groups(&groups).map_err(|errno| refused(identity, errno.raw_os_error()))?;
    set_file_gid(identity.gid);
    set_file_uid(identity.uid);
    if identity.uid != 0 {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        set_capabilities(None, sets).map_err(|errno| refused(identity, errno.raw_os_error()))?;
    }
    // The file ids are set by calls that cannot report a failure.
    if is_current(identity)? {
        Ok(())
    } else {
        Err(refused(identity, libc::EPERM))
    }
}

/// Whether the calling thread's access to files is exactly that of `identity`.
fn is_current(identity: &Identity) -> Result<bool> {
    if set_file_uid(NO_ID) != identity.uid || set_file_gid(NO_ID) != identity.gid {
        return Ok(false);
    }
    let groups = getgroups()
        .map_err(|errno| Error::from_errno(errno.raw_os_error(), "look at the own groups"))?;
    let mut present: Vec<u32> = groups.iter().map(|group| group.as_raw()).collect();
    let mut wanted = identity.groups.clone();
    for list in [&mut present, &mut wanted] {
        // The kernel takes a thread for a member of its own group, listed or not.
        list.push(identity.gid);
        list.sort_unstable();
        list.dedup();
    }
    if present != wanted {
        return Ok(false);
    }
    if identity.uid == 0 {
        return Ok(true);
    }
    let sets = capabilities(None)
        .map_err(|errno| Error::from_errno(errno.raw_os_error(), "look at the own capabilities"))?;
    Ok(!sets.effective.intersects(OVERRIDES))
}

/// Sets the file-system user of the calling thread; returns the one before.
fn set_file_uid(uid: u32) -> u32 {
    // SAFETY: setfsuid takes a number and touches no memory; glibc and musl make it per thread.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

/// Sets the file-system group of the calling thread; returns the one before.
fn set_file_gid(gid: u32) -> u32 {
    // SAFETY: as for setfsuid.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

fn refused(identity: &Identity, errno: i32) -> Error {
    Error::new(
        ErrorKind::Denied,
        errno,
        format!(
            "this process may not act for uid {} gid {}",
            identity.uid, identity.gid
        ),
    )
}
