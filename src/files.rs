//! Opens the files of the data folder: regular files, and those that are written only if they are ours.
//!
//! Whoever else can write to the folder could put a link there that leads to another file, a FIFO that nobody
//! reads, or a file of their own. So no link is followed, no open waits for a stranger, and what is found is checked before it
//! is used. The data folder itself may be a link.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

/// How long an open waits for a lease: a file server that exports the folder may have one on a file.
const LEASE_WAIT: Duration = Duration::from_mins(1);

/// How often it is tried again meanwhile.
const LEASE_LOOK: Duration = Duration::from_millis(10);

/// A file of the data folder that must not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {problem}; {}", path.display(), problem.advice())]
pub struct Unsafe {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("is a symbolic link, which is not followed here")]
    Link,
    #[error("is not a regular file")]
    NotRegular,
    #[error("belongs to user id {owner}, not to root or this process, which is user id {uid}")]
    Foreign { owner: u32, uid: u32 },
}

impl Problem {
    fn advice(&self) -> &'static str {
        match self {
            Self::Link => "put the file itself there, or remove the link",
            Self::NotRegular => "remove it, and see who else can write to the folder",
            Self::Foreign { .. } => "give it to this user, or remove it",
        }
    }
}

impl From<Unsafe> for io::Error {
    fn from(found: Unsafe) -> Self {
        Self::other(found)
    }
}

/// Whether an error says that a file must not be used, rather than that it cannot be.
pub fn is_unsafe(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Unsafe>()).is_some()
}

/// Whether an error stays until somebody changes something, unlike a full disk or one that fails now and then.
pub fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, IsADirectory, NotADirectory, NotFound, PermissionDenied,
        ReadOnlyFilesystem,
    };
    let lasting = [
        InvalidFilename,
        IsADirectory,
        NotADirectory,
        NotFound,
        PermissionDenied,
        ReadOnlyFilesystem,
    ];
    is_unsafe(error) || lasting.contains(&error.kind())
}

/// Opens a file to read it.
///
/// # Errors
/// What the system says, or [`Unsafe`].
pub fn open(path: &Path) -> io::Result<File> {
    opened(path, OpenOptions::new().read(true)).map(|(file, _)| file)
}

/// Reads a text whole.
///
/// # Errors
/// What the system says, or [`Unsafe`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens a file as `options` say, to write to it.
///
/// # Errors
/// What the system says, or [`Unsafe`].
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let (file, found) = opened(path, options)?;
    let (owner, uid) = (found.uid(), rustix::process::geteuid().as_raw());
    if is_ours(path, owner) {
        Ok(file)
    } else {
        Err(refused(path, Problem::Foreign { owner, uid }))
    }
}

/// Checks a folder in the data folder: a link in its place is followed only if it is ours, as files are.
///
/// # Errors
/// What the system says, or [`Unsafe`].
pub fn check_folder(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    let is_trusted = !found.is_symlink() || is_ours(path, found.uid());
    if is_trusted { Ok(()) } else { Err(refused(path, Problem::Link)) }
}

/// The owner of a folder can put any file into it. A file server may show another owner of all that is there.
fn is_ours(path: &Path, owner: u32) -> bool {
    let owns_folder = || {
        let folder = path.parent().map(std::fs::metadata);
        folder.is_some_and(|folder| folder.is_ok_and(|folder| folder.uid() == owner))
    };
    owner == 0 || owner == rustix::process::geteuid().as_raw() || owns_folder()
}

fn opened(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    // The first opens no link, the second does not wait for the other end of a FIFO.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    options.custom_flags(flags.cast_signed());
    let mut opened = options.open(path);
    let mut waited = Duration::ZERO;
    while waited < LEASE_WAIT && is_leased(path, &opened) {
        thread::sleep(LEASE_LOOK);
        waited += LEASE_LOOK;
        opened = options.open(path);
    }
    let file = opened.map_err(|error| {
        // Some of what must not be used cannot be opened like this.
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => refused(path, Problem::Link),
            Ok(found) if !found.is_file() => refused(path, Problem::NotRegular),
            _ => error,
        }
    })?;
    let found = file.metadata()?;
    if found.is_file() { Ok((file, found)) } else { Err(refused(path, Problem::NotRegular)) }
}

/// Whether somebody has a lease on a file of ours, which the system takes back in a while (45 s unless it is set
/// otherwise). Others can have none on it, and with a file of their own they must not hold us up.
fn is_leased<T>(path: &Path, opened: &io::Result<T>) -> bool {
    let is_blocked = opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    let is_file_of_ours =
        |found: Metadata| found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    is_blocked && std::fs::symlink_metadata(path).is_ok_and(is_file_of_ours)
}

fn refused(path: &Path, problem: Problem) -> io::Error {
    Unsafe { path: path.to_owned(), problem }.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    fn write(path: &Path) -> io::Result<File> {
        open_to_write(path, OpenOptions::new().append(true).create(true).mode(0o600))
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from(0o666), 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        for (name, problem) in [
            ("link", "is a symbolic link, which is not followed here; put the file itself there"),
            ("dangling", "is a symbolic link"),
            ("fifo", "is not a regular file; remove it"),
            ("socket", "is not a regular file"),
            ("folder", "is not a regular file"),
        ] {
            for error in [open(&at(name)).unwrap_err(), write(&at(name)).unwrap_err()] {
                assert!(is_unsafe(&error), "{name}: {error}");
                let said = error.to_string();
                assert!(said.contains(&format!("/{name} {problem}")), "{said}");
            }
        }
        assert!(!at("nothing").exists(), "nothing is made where a link leads");
        assert_eq!(read_to_string(&at("file")).unwrap(), "text");
        write(&at("new")).unwrap();
        let missing = open(&at("missing")).unwrap_err();
        assert_eq!((missing.kind(), is_unsafe(&missing)), (io::ErrorKind::NotFound, false));
    }

    #[test]
    fn a_file_of_somebody_else_is_not_written_to() {
        let uid = rustix::process::geteuid().as_raw();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path).unwrap();
        // Only root can give files away; for others the message is what is left to look at.
        if std::os::unix::fs::chown(&path, Some(uid + 1), None).is_ok() {
            let said = write(&path).unwrap_err().to_string();
            let owner = format!("belongs to user id {}, not to root or this process", uid + 1);
            assert!(said.contains(&owner) && said.contains("give it to this user"), "{said}");
            open(&path).unwrap();
            let link = folder.path().join("link");
            symlink("..", &link).unwrap();
            check_folder(&link).unwrap();
            std::os::unix::fs::lchown(&link, Some(uid + 1), None).unwrap();
            assert!(is_unsafe(&check_folder(&link).unwrap_err()));
            std::os::unix::fs::chown(folder.path(), Some(uid + 1), None).unwrap();
            write(&path).unwrap();
        }
    }
}
