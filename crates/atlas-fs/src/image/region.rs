//! A part of an image that is written from its start to its end.

use std::fs::File;
use std::os::unix::fs::FileExt;

use atlas_core::{Error, Result};

/// Bytes written at once.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Region<'a> {
    file: &'a File,
    /// Where the buffer will be written.
    offset: u64,
    buffer: Vec<u8>,
}

impl<'a> Region<'a> {
    pub(super) fn new(file: &'a File, offset: u64) -> Self {
        Self {
            file,
            offset,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Zeros up to a place further on.
    pub(super) fn pad_to(&mut self, position: u64) -> Result<()> {
        let missing = position.saturating_sub(self.position()) as usize;
        self.buffer.resize(self.buffer.len() + missing, 0);
        self.write(&[])
    }

    fn flush(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.buffer, self.offset)
            .map_err(|error| Error::from_io(&error, "write an image"))?;
        self.offset = self.position();
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left; gives the end.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.flush()?;
        Ok(self.offset)
    }
}
