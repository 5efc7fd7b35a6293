//! INIT: what the kernel offers and what the session takes.

use atlas_core::{Error, ErrorKind, Result};

use crate::protocol::{InitAnswer, InitRequest, MAJOR, MINOR, OLDEST_MINOR, capability};
use crate::session::{Profile, SessionSettings};

/// Pages of one request: 1 MiB.
const MAX_PAGES: u16 = 256;
/// Largest WRITE, in bytes: none comes, and the kernel wants request buffers longer than this.
const MAX_WRITE: u32 = 4096;
/// Requests that no caller waits for in the kernel (read-ahead, asynchronous direct I/O). The
/// kernel's default of 12 holds back read-ahead as soon as an origin is slow.
const MAX_BACKGROUND: u16 = 1024;

/// The answer to INIT.
///
/// # Errors
/// `Unsupported` for a kernel whose protocol is too old.
pub(crate) fn negotiate(
    request: &InitRequest,
    flags_high: u32,
    settings: &SessionSettings,
) -> Result<InitAnswer> {
    if request.major != MAJOR || request.minor < OLDEST_MINOR {
        return Err(Error::new(
            ErrorKind::Unsupported,
            libc::EPROTO,
            format!(
                "start a FUSE session: the kernel speaks protocol {}.{}, needed is {MAJOR}.{OLDEST_MINOR} (Linux 5.4) or newer",
                request.major, request.minor
            ),
        ));
    }
    let extended = u64::from(request.flags) & capability::INIT_EXT != 0;
    let high = if extended {
        u64::from(flags_high) << 32
    } else {
        0
    };
    let flags = wanted(settings) & (u64::from(request.flags) | high);
    Ok(InitAnswer {
        major: MAJOR,
        minor: request.minor.min(MINOR),
        max_readahead: settings.read_ahead_bytes,
        flags: flags as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_granularity: 1,
        max_pages: MAX_PAGES,
        flags_high: (flags >> 32) as u32,
        ..InitAnswer::default()
    })
}

fn wanted(settings: &SessionSettings) -> u64 {
    let mut flags = capability::ASYNC_READ
        | capability::PARALLEL_DIROPS
        | capability::MAX_PAGES
        | capability::INIT_EXT
        | capability::HAS_RESEND;
    flags |= match settings.profile {
        // Files never change under a node id: pages are dropped on request only.
        Profile::Live => {
            capability::DO_READDIRPLUS
                | capability::NO_OPEN_SUPPORT
                | capability::NO_OPENDIR_SUPPORT
                | capability::CACHE_SYMLINKS
                | capability::EXPLICIT_INVAL_DATA
        }
        Profile::Uncached => capability::ASYNC_DIO | capability::DIRECT_IO_ALLOW_MMAP,
        Profile::Twin => capability::ASYNC_DIO,
    };
    if settings.posix_acl {
        flags |= capability::POSIX_ACL;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(minor: u32, flags: u64) -> InitRequest {
        InitRequest {
            major: MAJOR,
            minor,
            max_readahead: 1 << 17,
            flags: flags as u32,
        }
    }

    #[test]
    fn only_what_is_offered_is_taken() {
        let settings = SessionSettings::default();
        let answer = negotiate(&request(45, u64::MAX), u32::MAX, &settings).unwrap();
        assert_eq!((answer.major, answer.minor), (7, MINOR));
        assert_ne!(u64::from(answer.flags) & capability::DO_READDIRPLUS, 0);
        assert_eq!(u64::from(answer.flags_high) << 32, capability::HAS_RESEND);
        let answer = negotiate(&request(33, capability::ASYNC_READ), u32::MAX, &settings).unwrap();
        assert_eq!(
            (answer.minor, u64::from(answer.flags)),
            (33, capability::ASYNC_READ)
        );
        assert_eq!(answer.flags_high, 0, "no high flags without INIT_EXT");
    }

    #[test]
    fn an_old_kernel_is_refused_by_name() {
        let error = negotiate(&request(30, 0), 0, &SessionSettings::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("7.30"), "{}", error.message);
    }
}
