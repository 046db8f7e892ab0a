//! The folder of the journal, as far as the journal needs it: the seam at which tests break it.
//!
//! A file that is read by its name is written whole: under a name that says that it is not finished, which it
//! loses once everything is in it and synced. So after a crash there is the one before or the new one, never
//! half of either.

#![expect(clippy::missing_errors_doc, reason = "every call fails with what the system says")]

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::files;

/// A folder whose changes are durable when a call returns.
pub trait Disk: Send + Sync {
    /// The names and sizes of its files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes an empty file, in place of any other of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// Cuts a file.
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()>;

    /// Gives a file another name, in place of any other of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Which file has this name, and how it was last written.
    fn mark(&self, _name: &str) -> io::Result<Mark> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The mark of the folder itself: another one once a file in it is made, renamed or removed.
    fn own_mark(&self) -> io::Result<Mark> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How much room there is; nothing if nobody knows.
    fn space(&self) -> io::Result<Option<Space>> {
        Ok(None)
    }
}

/// What tells whether a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which file it is, whatever its name: its device and its number there.
    pub file: (u64, u64),
    /// Its size in bytes, and when it was last written, in s and ns.
    pub written: (u64, i64, i64),
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What we may still take.
    pub free_bytes: u64,
    /// What it has in all.
    pub size_bytes: u64,
}

/// A file that only grows.
pub trait DiskFile: Send {
    /// Appends all of the bytes; after an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended survive the machine.
    fn sync(&mut self) -> io::Result<()>;

    /// Fails if what is appended would not be found because the file was removed or moved away.
    fn still_there(&self) -> io::Result<()>;
}

/// How the name of a file ends until it is whole; nothing else spells it.
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// The name of a file until it is whole.
pub fn unfinished_name(name: &str) -> String {
    format!("{name}{UNFINISHED_SUFFIX}")
}

/// Whether a file was left behind unfinished.
pub fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED_SUFFIX)
}

/// Nothing instead of an error because a file is not there.
pub fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Writes a file whole, in place of any other of that name: `put` appends all of it, and syncs before the end
/// where so much comes together that one sync would be long.
///
/// # Errors
/// What the system says, or what `put` does; what is unfinished is then removed.
pub fn write_whole<E: From<io::Error>>(
    disk: &dyn Disk,
    name: &str,
    put: impl FnOnce(&mut dyn DiskFile) -> Result<(), E>,
) -> Result<(), E> {
    let unfinished = unfinished_name(name);
    let write = || {
        let mut file = disk.create(&unfinished)?;
        put(&mut *file)?;
        file.sync()?;
        drop(file);
        Ok(disk.rename(&unfinished, name)?)
    };
    write().inspect_err(|_| {
        // A disk that is full must not be kept full by half a file.
        let _ = disk.remove(&unfinished);
    })
}

/// How much of a large file is written and synced at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// A file that is synced piece by piece, so that no sync is long.
pub(super) struct Paced<'f> {
    file: &'f mut dyn DiskFile,
    piece: Vec<u8>,
    /// How long the disk is left to others between two pieces.
    pause: Duration,
}

impl<'f> Paced<'f> {
    /// Without a pause between the pieces.
    pub(super) fn new(file: &'f mut dyn DiskFile) -> Self {
        Self { file, piece: Vec::new(), pause: Duration::ZERO }
    }

    /// With a pause after each piece.
    pub(super) fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Appends what is left, which is synced with the whole.
    pub(super) fn end(self) -> io::Result<()> {
        self.file.append(&self.piece)
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.file.append(&self.piece)?;
            self.file.sync()?;
            self.piece.clear();
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder of the real file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Who may read the files that are made in it.
    mode: u32,
}

/// The owner writes, the group reads.
const MODE: u32 = 0o640;

/// The same of folders.
const FOLDER_MODE: u32 = 0o750;

/// The owner alone.
const PRIVATE_MODE: u32 = 0o600;

impl Folder {
    /// Opens a folder, and makes it if it is missing. A link in its place must be ours.
    pub fn make(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            DirBuilder::new().mode(FOLDER_MODE).create(path)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        files::check_folder(path)?;
        Ok(Self::at(path))
    }

    /// A folder that is there.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), mode: MODE }
    }

    /// A folder that is there, in which files are made for the owner alone.
    pub fn private_at(path: &Path) -> Self {
        Self { path: path.to_owned(), mode: PRIVATE_MODE }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                match entry.metadata() {
                    Ok(metadata) => files.push((name, metadata.len())),
                    // Removed since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(self.mode).open(&path)?;
        self.sync()?;
        Ok(Box::new(FolderFile { file, path }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(files::open(&self.path.join(name))?))
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = files::open_to_write(&self.path.join(name), OpenOptions::new().write(true))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))?;
        self.sync()
    }

    fn mark(&self, name: &str) -> io::Result<Mark> {
        Ok(mark_of(&std::fs::symlink_metadata(self.path.join(name))?))
    }

    fn own_mark(&self) -> io::Result<Mark> {
        Ok(mark_of(&std::fs::metadata(&self.path)?))
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let found = rustix::fs::statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Some(Space { free_bytes: bytes(found.f_bavail), size_bytes: bytes(found.f_blocks) }))
    }
}

fn mark_of(found: &Metadata) -> Mark {
    Mark {
        file: (found.dev(), found.ino()),
        written: (found.len(), found.mtime(), found.mtime_nsec()),
    }
}

/// A file of a [`Folder`], and where it should be.
struct FolderFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for FolderFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn still_there(&self) -> io::Result<()> {
        let (open, found) = (self.file.metadata()?, std::fs::symlink_metadata(&self.path)?);
        if (open.dev(), open.ino()) == (found.dev(), found.ino()) {
            return Ok(());
        }
        let why = format!("{} is another file now", self.path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim::SimDisk;

    #[test]
    fn what_cannot_be_written_whole_leaves_the_file_before_and_no_half() {
        // Made, appended to, synced, renamed: each of these fails once.
        for step in 0..4 {
            let disk = SimDisk::default();
            disk.write("file", b"before".to_vec());
            disk.fail_after(step, Some(1), 3);
            write_whole(&disk, "file", |file| file.append(b"after")).unwrap_err();
            assert_eq!(disk.list().unwrap(), [("file".to_owned(), 6)], "step {step}");
            write_whole(&disk, "file", |file| file.append(b"after")).unwrap();
            assert_eq!(disk.list().unwrap(), [("file".to_owned(), 5)], "step {step}");
        }
    }
}
