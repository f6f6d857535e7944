//! Without the feature `unpack` nothing is written: no value of these types can be made.

use std::{convert::Infallible, io};

use super::path::EntryPath;

/// Where an archive would be written to.
pub(super) struct Disk(Infallible);

/// A file that would be written.
pub(super) struct Writing(Infallible);

impl Writing {
    pub(super) async fn write(&mut self, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }
}

impl Disk {
    pub(super) fn folder(&mut self, _: &EntryPath) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn create(&mut self, _: &EntryPath) -> Writing {
        match self.0 {}
    }

    pub(super) async fn close(&mut self, _: Writing, _: u32) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) async fn copy(&mut self, _: &EntryPath, _: &EntryPath, _: u32) -> io::Result<()> {
        match self.0 {}
    }
}
