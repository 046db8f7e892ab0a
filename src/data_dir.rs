//! The data folder: what survives a restart.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;

use crate::config::absolute;
use crate::session::id::Key;

const KEY_FILE: &str = "session.key";

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

/// The data folder, known to be writable.
#[derive(Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Opens the folder, and makes it if it is missing.
    ///
    /// # Errors
    /// [`DataDirError::NotWritable`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let folder = Self(absolute(path));
        folder.try_writing().map_err(|error| folder.not_writable(error))?;
        Ok(folder)
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The key that signs session ids. On the first start it is made, and on disk before this
    /// returns: an id that was given out must be known again after a crash.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn session_key(&self) -> Result<Key, DataDirError> {
        let path = self.0.join(KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                warn_if_others_can_read(&path);
                Key::from_hex(text.trim_ascii()).ok_or(DataDirError::KeyMalformed { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; Key::BYTES];
                rand::rng().fill_bytes(&mut bytes);
                let key = Key::new(bytes);
                self.write_durably(KEY_FILE, &format!("{}\n", key.to_secret_hex()))
                    .map_err(|error| self.not_writable(error))?;
                Ok(key)
            }
            Err(source) => Err(DataDirError::KeyUnreadable { path, source }),
        }
    }

    fn try_writing(&self) -> io::Result<()> {
        if !self.0.is_dir() {
            DirBuilder::new().recursive(true).mode(0o750).create(&self.0)?;
            if let Some(parent) = self.0.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        let probe = self.0.join(".write-test");
        File::create(&probe)?;
        std::fs::remove_file(&probe)
    }

    /// Writes a file that only the server can read, whole or not at all.
    fn write_durably(&self, name: &str, text: &str) -> io::Result<()> {
        let unfinished = self.0.join(format!("{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    fn not_writable(&self, source: io::Error) -> DataDirError {
        let uid = rustix::process::geteuid().as_raw();
        DataDirError::NotWritable { path: self.0.clone(), uid, source }
    }
}

fn warn_if_others_can_read(path: &Path) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others can read the session key; chmod 600 it");
    }
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
        let mode = std::fs::metadata(path.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = DataDir::open(&path).unwrap();
        assert_eq!(again.session_key().unwrap(), key);
        assert_ne!(DataDir::open(parent.path()).unwrap().session_key().unwrap(), key);
        let names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [KEY_FILE], "nothing else is left behind");
    }

    #[test]
    fn a_broken_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(KEY_FILE), "garbage").unwrap();
        let error = DataDir::open(folder.path()).unwrap().session_key().unwrap_err();
        assert!(matches!(error, DataDirError::KeyMalformed { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join(KEY_FILE)).unwrap(), "garbage");
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
