//! The data folder: what survives a restart.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::journal::disk::{Folder, write_whole};
use crate::session::id::Key;

/// The file of the key that signs session ids.
pub const SESSION_KEY: &str = "session.key";

/// The file that is locked as long as a server uses the folder.
pub const LOCK_FILE: &str = "lock";

/// The folder of the journal.
pub const JOURNAL: &str = "journal";

/// The folder of refused bodies.
pub const REJECTS: &str = "rejects";

/// The folder of the journal in a backup that is not finished.
pub const UNFINISHED_BACKUP: &str = "journal.unfinished";

/// The section `storage` of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether a data folder that everybody can write to stops the start, rather than being warned of.
    pub strict_permissions: bool,
}

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is missing and cannot be made, or cannot be written to.
    #[error(
        "cannot write to the data folder {} as user id {uid}; choose another with --data-dir, or \
         give this one to that user", path.display()
    )]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// Who tried.
        uid: u32,
        /// Why not.
        source: io::Error,
    },
    /// What is in the place of its lock must not be used.
    #[error("cannot lock the data folder {}", path.display())]
    Lock {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everybody can write to it, and `storage.strict_permissions` is set.
    #[error(
        "everybody can write to {} (mode {mode:04o}), and storage.strict_permissions is set; chmod o-w it, \
         and look for files in it that are not the server's", path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another process has it.
    #[error(
        "another mediatally uses the data folder {}; stop it first, or choose another folder with \
         --data-dir", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It is a backup that was not finished.
    #[error(
        "{} is a backup that was not finished, so it must not be used; take another one", path.display()
    )]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// There is a journal, but not the key that signed its sessions.
    #[error(
        "there is a journal but no session key {}; restore it from a backup, because a new one would \
         disown every session of the journal", path.display()
    )]
    KeyLost {
        /// Where the key should be.
        path: PathBuf,
    },
    /// The key is there and cannot be read.
    #[error("cannot read the session key {}", path.display())]
    KeyUnreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key is there and is none.
    #[error(
        "{} is not a session key (64 hexadecimal digits); restore it from a backup, because a new \
         one would disown every session that was started with it", path.display()
    )]
    KeyMalformed {
        /// The file.
        path: PathBuf,
    },
}

/// The data folder: writable, and nobody else's as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens the folder, and makes it if it is missing.
    ///
    /// # Errors
    /// [`DataDirError::NotWritable`], [`DataDirError::InUse`] or [`DataDirError::Unfinished`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        refuse_unfinished(&path)?;
        let lock = make(&path).map_err(|error| lock_error(&path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(not_writable(&path, error)),
        }
    }

    /// Warns of folders that everybody can write to, or refuses them. That the group can is fine: Kubernetes
    /// gives volumes to one (`fsGroup`).
    ///
    /// # Errors
    /// [`DataDirError::Open`].
    pub fn check_permissions(&self, settings: &Settings) -> Result<(), DataDirError> {
        for (path, mode) in open_folders(&self.path, settings)? {
            let mode = format_args!("{mode:04o}");
            tracing::warn!(path = %path.display(), %mode, "{EVERYBODY_WRITES}");
        }
        Ok(())
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the journal lies.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The key that signs session ids. On the first start it is made, and on disk before this
    /// returns: an id that was given out must be known again after a crash.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn session_key(&self) -> Result<Key, DataDirError> {
        if let Some(key) = stored_key(&self.path)? {
            let path = self.path.join(SESSION_KEY);
            if others_can_read(&path) {
                tracing::warn!(path = %path.display(), "{OTHERS_READ_KEY}");
            }
            return Ok(key);
        }
        let mut bytes = [0; Key::BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let key = Key::new(bytes);
        let text = format!("{}\n", key.to_secret_hex());
        let folder = Folder::private_at(&self.path);
        write_whole(&folder, SESSION_KEY, |file| file.append(text.as_bytes()))
            .map_err(|error| not_writable(&self.path, error))?;
        Ok(key)
    }
}

/// What is probably a mistake, and stops nothing.
const EVERYBODY_WRITES: &str = "everybody can write to a folder of the data; chmod o-w it";
const OTHERS_READ_KEY: &str = "others can read the session key; chmod 600 it";

/// Looks at a data folder as a start does, and makes and changes nothing; gives what a start warns of. That another
/// server uses it is no fault: it may be the one that will be restarted.
///
/// # Errors
/// What a start would refuse.
pub fn inspect(
    path: &Path,
    settings: &Settings,
    is_key_configured: bool,
) -> Result<Vec<String>, DataDirError> {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    refuse_unfinished(path)?;
    // Of a folder that is still to be made, the one in which it is made.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let is_writable = |at: &Path| {
        if !at.is_dir() {
            return Err(not_writable(path, io::ErrorKind::NotADirectory.into()));
        }
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::access(at, access).map_err(|error| not_writable(path, error.into()))
    };
    is_writable(there)?;
    let (lock, journal) = (path.join(LOCK_FILE), path.join(JOURNAL));
    match files::open_to_write(&lock, OpenOptions::new().write(true)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(lock_error(path, error));
        }
        _ => {}
    }
    if journal.exists() {
        files::check_folder(&journal).map_err(|error| not_writable(&journal, error))?;
        is_writable(&journal)?;
    }
    let open = open_folders(path, settings)?.into_iter();
    let mut warnings: Vec<_> = open
        .map(|(path, mode)| format!("{EVERYBODY_WRITES}: {} (mode {mode:04o})", path.display()))
        .collect();
    let key = path.join(SESSION_KEY);
    if !is_key_configured && stored_key(path)?.is_some() && others_can_read(&key) {
        warnings.push(format!("{OTHERS_READ_KEY}: {}", key.display()));
    }
    Ok(warnings)
}

impl DataDirError {
    /// Whether it stays until somebody changes something: then starting again does not help.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Unfinished { .. }
            | Self::KeyLost { .. }
            | Self::KeyMalformed { .. } => true,
            // The other one may be about to end.
            Self::InUse { .. } => false,
            Self::NotWritable { source, .. }
            | Self::Lock { source, .. }
            | Self::KeyUnreadable { source, .. } => files::is_lasting(source),
        }
    }
}

fn refuse_unfinished(path: &Path) -> Result<(), DataDirError> {
    if path.join(UNFINISHED_BACKUP).is_dir() {
        return Err(DataDirError::Unfinished { path: path.to_owned() });
    }
    Ok(())
}

/// The folders of the data that everybody can write to, with their permissions.
fn open_folders(path: &Path, settings: &Settings) -> Result<Vec<(PathBuf, u32)>, DataDirError> {
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let mut open = Vec::new();
    for path in [path.to_owned(), path.join(JOURNAL), path.join(REJECTS)] {
        let Ok(found) = std::fs::metadata(&path) else { continue };
        let mode = found.permissions().mode() & 0o7777;
        if mode & OTHERS_WRITE == 0 || mode & STICKY != 0 {
            continue;
        }
        if settings.strict_permissions {
            return Err(DataDirError::Open { path, mode });
        }
        open.push((path, mode));
    }
    Ok(open)
}

/// The key of a data folder; nothing if one may be made.
fn stored_key(path: &Path) -> Result<Option<Key>, DataDirError> {
    let (path, journal) = (path.join(SESSION_KEY), path.join(JOURNAL));
    match files::read_to_string(&path) {
        Ok(text) => match Key::from_hex(text.trim_ascii()) {
            Some(key) => Ok(Some(key)),
            None => Err(DataDirError::KeyMalformed { path }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match has_files(&journal) {
            Ok(false) => Ok(None),
            Ok(true) => Err(DataDirError::KeyLost { path }),
            Err(source) => Err(DataDirError::KeyUnreadable { path, source }),
        },
        Err(source) => Err(DataDirError::KeyUnreadable { path, source }),
    }
}

/// Whether there is anything that was signed with a key.
fn has_files(journal: &Path) -> io::Result<bool> {
    match std::fs::read_dir(journal) {
        Ok(mut files) => Ok(files.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Who cannot tell must not make a new key.
        Err(error) => Err(error),
    }
}

/// Makes the folder if it is missing, and opens the file in it that is locked.
fn make(path: &Path) -> io::Result<File> {
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(LOCK_MODE);
    let lock = files::open_to_write(&path.join(LOCK_FILE), &mut options)?;
    // Earlier versions made it readable to others. Whose it is, and not ours, stays as it is.
    let _ = lock.set_permissions(Permissions::from_mode(LOCK_MODE));
    Ok(lock)
}

/// Nobody else needs to open the lock: who can open it can hold it.
const LOCK_MODE: u32 = 0o600;

fn not_writable(path: &Path, source: io::Error) -> DataDirError {
    let uid = rustix::process::geteuid().as_raw();
    DataDirError::NotWritable { path: path.to_owned(), uid, source }
}

fn lock_error(path: &Path, source: io::Error) -> DataDirError {
    if files::is_unsafe(&source) {
        DataDirError::Lock { path: path.to_owned(), source }
    } else {
        not_writable(path, source)
    }
}

fn others_can_read(path: &Path) -> bool {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    mode.is_ok_and(|mode| mode & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_the_server_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/er");
        let folder = DataDir::open(&path).unwrap();
        let key = folder.session_key().unwrap();
        let mode = std::fs::metadata(path.join(SESSION_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
        drop(folder);
        let again = DataDir::open(&path).unwrap();
        assert_eq!(again.session_key().unwrap(), key);
        assert_ne!(DataDir::open(parent.path()).unwrap().session_key().unwrap(), key);
        let names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing else is left behind: {names:?}");
    }

    #[test]
    fn a_broken_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SESSION_KEY), "garbage").unwrap();
        let error = DataDir::open(folder.path()).unwrap().session_key().unwrap_err();
        assert!(matches!(error, DataDirError::KeyMalformed { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join(SESSION_KEY)).unwrap(), "garbage");
    }

    #[test]
    fn a_journal_without_its_key_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(parent.path()).unwrap();
        std::fs::create_dir(folder.journal()).unwrap();
        folder.session_key().unwrap();
        std::fs::write(folder.journal().join("1"), "").unwrap();
        std::fs::remove_file(parent.path().join(SESSION_KEY)).unwrap();
        let error = folder.session_key().unwrap_err();
        assert!(matches!(error, DataDirError::KeyLost { .. }), "{error}");
    }

    #[test]
    fn what_is_in_the_place_of_a_file_and_is_none_of_ours_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (path, other) = (parent.path().join("data"), parent.path().join("other"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(&other, "ab".repeat(32)).unwrap();
        for (name, is_link) in
            [(LOCK_FILE, true), (LOCK_FILE, false), (SESSION_KEY, true), (SESSION_KEY, false)]
        {
            let file = path.join(name);
            if is_link {
                std::os::unix::fs::symlink(&other, &file).unwrap();
            } else {
                let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o666));
                rustix::fs::mknodat(rustix::fs::CWD, &file, fifo, mode, 0).unwrap();
            }
            let opened = DataDir::open(&path).and_then(|folder| folder.session_key());
            let error = anyhow::Error::from(opened.unwrap_err());
            let said = format!("{error:#}");
            let problem = if is_link { "is a symbolic link" } else { "is not a regular file" };
            assert!(said.contains(&format!("/data/{name} {problem}")), "{said}");
            std::fs::remove_file(&file).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "ab".repeat(32));
    }

    #[test]
    fn the_data_folder_may_be_a_link_and_its_lock_is_for_the_server_alone() {
        let parent = tempfile::tempdir().unwrap();
        let (path, link) = (parent.path().join("data"), parent.path().join("link"));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let lock = path.join(LOCK_FILE);
        std::fs::write(&lock, "").unwrap();
        std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        let folder = DataDir::open(&link).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
        assert_eq!(std::fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
        folder.session_key().unwrap();
    }

    #[test]
    fn a_folder_that_everybody_can_write_to_is_refused_if_that_is_set() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(&parent.path().join("data")).unwrap();
        let journal = folder.journal();
        std::fs::create_dir(&journal).unwrap();
        let of = |path: &Path, mode: u32, strict_permissions: bool| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let checked = folder.check_permissions(&Settings { strict_permissions });
            std::fs::set_permissions(path, Permissions::from_mode(0o750)).unwrap();
            checked.map_err(|error| error.to_string())
        };
        for path in [folder.path(), &*journal] {
            for (mode, is_refused) in
                [(0o750, false), (0o2775, false), (0o1777, false), (0o777, true), (0o702, true)]
            {
                assert_eq!(of(path, mode, true).is_err(), is_refused, "{mode:o}");
                assert_eq!(of(path, mode, false), Ok(()), "{mode:o}");
            }
        }
        let said = of(&journal, 0o777, true).unwrap_err();
        let expected = format!("everybody can write to {} (mode 0777)", journal.display());
        assert!(said.starts_with(&expected) && said.contains("chmod o-w"), "{said}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_user() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains(&format!("{}/data as user id ", file.display())), "{error}");
    }
}
