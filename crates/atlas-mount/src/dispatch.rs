//! From the bytes of one request to a call of the file system.

use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use crate::channel::{Channel, Ticket};
use crate::filesystem::{Filesystem, FolderRequest, OpenRequest, ReadRequest};
use crate::folder::ReplyFolder;
use crate::negotiation::negotiate;
use crate::protocol::{
    BatchForgetArguments, ExtendedSize, ForgetArguments, ForgetOne, InitRequest,
    InterruptArguments, NAME_BYTES, OpenArguments, ReadArguments, ReleaseArguments, RequestHeader,
    operation,
};
use crate::reply::{
    ReplyAttributes, ReplyData, ReplyEntry, ReplyExtended, ReplyOpen, ReplyStatistics,
};
use crate::session::SessionSettings;

/// Handles one message of the kernel. A malformed one is answered with EINVAL where it has a
/// header to answer to.
pub(crate) fn dispatch(
    channel: &Arc<Channel>,
    filesystem: &dyn Filesystem,
    settings: &SessionSettings,
    message: &[u8],
) {
    let Ok((header, body)) = RequestHeader::read_from_prefix(message) else {
        return;
    };
    channel.count(header.operation);
    let handled = if header.length as usize == message.len() {
        handle(channel, filesystem, settings, &header, body)
    } else {
        None
    };
    if handled.is_none() && expects_answer(header.operation) {
        channel.refuse(header.unique, libc::EINVAL);
    }
}

const fn expects_answer(operation: u32) -> bool {
    !matches!(
        operation,
        operation::FORGET
            | operation::BATCH_FORGET
            | operation::INTERRUPT
            | operation::NOTIFY_REPLY
    )
}

/// `None`: the message is malformed and nothing was answered.
fn handle(
    channel: &Arc<Channel>,
    filesystem: &dyn Filesystem,
    settings: &SessionSettings,
    header: &RequestHeader,
    body: &[u8],
) -> Option<()> {
    let node = header.node;
    let ticket = || Ticket::new(channel, header);
    match header.operation {
        operation::LOOKUP => {
            let name = name(body)?;
            if name.len() > NAME_BYTES {
                channel.refuse(header.unique, libc::ENAMETOOLONG);
            } else {
                filesystem.lookup(node, name, ReplyEntry(ticket()));
            }
        }
        operation::GETATTR => filesystem.attributes(node, ReplyAttributes(ticket())),
        operation::READ => {
            let (arguments, _) = ReadArguments::read_from_prefix(body).ok()?;
            let ReadArguments {
                handle,
                offset,
                size,
                ..
            } = arguments;
            let reply = ReplyData::new(ticket(), Some(size as usize));
            filesystem.read(
                ReadRequest {
                    node,
                    handle,
                    offset,
                    size,
                },
                reply,
            );
        }
        operation::READDIR | operation::READDIRPLUS => {
            let (arguments, _) = ReadArguments::read_from_prefix(body).ok()?;
            let ReadArguments {
                handle,
                offset,
                size,
                ..
            } = arguments;
            let plus = header.operation == operation::READDIRPLUS;
            let reply = ReplyFolder::new(ticket(), size as usize, plus);
            filesystem.read_folder(
                FolderRequest {
                    node,
                    handle,
                    offset,
                },
                reply,
            );
        }
        operation::READLINK => filesystem.read_link(node, ReplyData::new(ticket(), None)),
        operation::OPEN | operation::OPENDIR => {
            let (arguments, _) = OpenArguments::read_from_prefix(body).ok()?;
            let folder = header.operation == operation::OPENDIR;
            let request = OpenRequest {
                node,
                folder,
                flags: arguments.flags,
            };
            filesystem.open(
                request,
                ReplyOpen {
                    ticket: ticket(),
                    folder,
                },
            );
        }
        operation::RELEASE | operation::RELEASEDIR => {
            let (arguments, _) = ReleaseArguments::read_from_prefix(body).ok()?;
            filesystem.release(node, arguments.handle);
            channel.answer(header.unique, [&[], &[]]);
        }
        operation::STATFS => filesystem.statistics(node, ReplyStatistics(ticket())),
        operation::GETXATTR => {
            let (arguments, rest) = ExtendedSize::read_from_prefix(body).ok()?;
            let name = name(rest)?;
            let reply = ReplyExtended {
                ticket: ticket(),
                size: arguments.size,
            };
            filesystem.extended_attribute(node, name, reply);
        }
        operation::LISTXATTR => {
            let (arguments, _) = ExtendedSize::read_from_prefix(body).ok()?;
            let reply = ReplyExtended {
                ticket: ticket(),
                size: arguments.size,
            };
            filesystem.extended_attribute_names(node, reply);
        }
        operation::FORGET => {
            let (arguments, _) = ForgetArguments::read_from_prefix(body).ok()?;
            filesystem.forget(node, arguments.lookups);
        }
        operation::BATCH_FORGET => {
            let (arguments, mut rest) = BatchForgetArguments::read_from_prefix(body).ok()?;
            for _ in 0..arguments.count {
                let (one, left) = ForgetOne::read_from_prefix(rest).ok()?;
                filesystem.forget(one.node, one.lookups);
                rest = left;
            }
        }
        operation::INTERRUPT => {
            let (arguments, _) = InterruptArguments::read_from_prefix(body).ok()?;
            channel.pending.interrupt(arguments.unique);
            channel.release_dying();
        }
        operation::INIT => initialize(channel, settings, header, body)?,
        operation::NOTIFY_REPLY => {}
        operation::DESTROY => channel.answer(header.unique, [&[], &[]]),
        _ => channel.refuse(header.unique, refusal(header.operation)),
    }
    Some(())
}

fn initialize(
    channel: &Arc<Channel>,
    settings: &SessionSettings,
    header: &RequestHeader,
    body: &[u8],
) -> Option<()> {
    let (request, rest) = InitRequest::read_from_prefix(body).ok()?;
    let flags_high = u32::read_from_prefix(rest).map_or(0, |(flags, _)| flags);
    match negotiate(&request, flags_high, settings) {
        Ok(answer) => channel.answer(header.unique, [answer.as_bytes(), &[]]),
        Err(error) => {
            // The reason first: after the answer every call on the mount fails with ECONNREFUSED.
            let errno = error.errno;
            channel.set_failure(error);
            channel.refuse(header.unique, errno);
        }
    }
    Some(())
}

/// Why an operation is not for a file system like this.
const fn refusal(operation: u32) -> i32 {
    match operation {
        operation::SETATTR
        | operation::SYMLINK
        | operation::MKNOD
        | operation::MKDIR
        | operation::UNLINK
        | operation::RMDIR
        | operation::RENAME
        | operation::RENAME2
        | operation::LINK
        | operation::WRITE
        | operation::SETXATTR
        | operation::REMOVEXATTR
        | operation::CREATE
        | operation::TMPFILE
        | operation::FALLOCATE
        | operation::COPY_FILE_RANGE => libc::EROFS,
        // Not remembered by the kernel, unlike ENOSYS: CPython's buffered open asks every time.
        operation::IOCTL => libc::ENOTTY,
        // ENOSYS tells the kernel to do without, once for ever: FLUSH, ACCESS, LSEEK, FSYNC, STATX.
        _ => libc::ENOSYS,
    }
}

/// The NUL-terminated name at the head of `body`.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| &body[..end])
}

#[cfg(test)]
mod tests;
