//! Makes the files of segments with the rights of whoever opened the volume: fills run on threads
//! with the identity of a data set's creator, who may do nothing in a tier's folder.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};

use atlas_core::{Error, ErrorKind, Result};
use rustix::fs::AtFlags;

use crate::files;

struct Request {
    name: String,
    length: u64,
    reply: Sender<Result<File>>,
}

/// The thread that makes the files; it ends when this is dropped.
pub(super) struct Maker(Sender<Request>);

impl Maker {
    pub(super) fn start(folder: &OwnedFd, id: &str) -> Result<Self> {
        let folder = folder
            .try_clone()
            .map_err(|error| Error::from_io(&error, "keep the folder of a volume"))?;
        let (sender, requests) = channel();
        std::thread::Builder::new()
            .name(format!("segments {id}"))
            .spawn(move || serve(&folder, &requests))
            .map_err(|error| Error::from_io(&error, "start a thread of a volume"))?;
        Ok(Self(sender))
    }

    /// A new file of `length` bytes, all of them a hole. What lies there under its name is removed.
    pub(super) fn make(&self, name: String, length: u64) -> Result<File> {
        let gone = || {
            Error::new(
                ErrorKind::Io,
                libc::EIO,
                "make a segment: no thread does it",
            )
        };
        let (reply, answer) = channel();
        let request = Request {
            name,
            length,
            reply,
        };
        self.0.send(request).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

fn serve(folder: &OwnedFd, requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        let made = make(folder, &request.name, request.length);
        // Whoever asked waits for it.
        let _ = request.reply.send(made);
    }
}

fn make(folder: &OwnedFd, name: &str, length: u64) -> Result<File> {
    files::remove(folder, name, AtFlags::empty())?;
    let file = files::open(folder, name, true)?;
    if let Err(error) = files::set_length(&file, length) {
        files::remove(folder, name, AtFlags::empty())?;
        return Err(error);
    }
    Ok(file)
}
