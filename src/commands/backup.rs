//! A copy of the data folder that a server can be started on, taken while another one runs.
//!
//! The journal gets its name last: a folder whose backup was not finished has a folder `journal.unfinished`, and
//! no server starts on it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::verify::Audit;
use super::{journal_of, verify};
use crate::data_dir::{JOURNAL, LOCK_FILE, REJECTS, SESSION_KEY, UNFINISHED_BACKUP};
use crate::files;
use crate::journal::copy::{self, Copied, Source};
use crate::journal::disk::{Folder, is_unfinished};
use crate::journal::erase::order::ORDER_FILE;
use crate::journal::segment;

/// How deep the folders beside the journal may lie inside each other.
const DEPTH_MAX: usize = 8;

/// How often to look whether an order to erase is done.
const LOOK: Duration = Duration::from_millis(100);

/// Where to.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The folder of the backup, outside of the data folder; it is made if it is missing, and must be empty
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// How long to wait, in all, for the end of an erasure that is going on
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// Copies the data folder, and holds the copy to its promises.
pub(super) fn main(data_dir: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let from = journal_of(data_dir)?;
    let mut target = Target::prepare(data_dir, &options.folder)?;
    let taken = match take(data_dir, &from, options, &mut target) {
        Ok(taken) => taken,
        // Half a backup is worth nothing, and would be in the way of the next.
        Err(error) => return Err(error.context(target.remove())),
    };
    let out = &mut std::io::stdout().lock();
    taken.audit.summary(out)?;
    summary(out, &options.folder, &taken.copied, &taken.others)?;
    if taken.audit.keeps_promises() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "problem    no server starts on this copy: its journal is left as {UNFINISHED_BACKUP}; if the one that \
         was copied has the same problems, rename it to {JOURNAL} to use it all the same"
    )?;
    Ok(ExitCode::FAILURE)
}

/// What was copied, and how good it is.
struct Taken {
    copied: Copied,
    others: Others,
    audit: Audit,
}

fn take(
    data_dir: &Path,
    from: &Folder,
    options: &Options,
    target: &mut Target,
) -> anyhow::Result<Taken> {
    let folder = &options.folder;
    let unfinished = folder.join(UNFINISHED_BACKUP);
    target.has_journal = true;
    let to = Folder::make(&unfinished)
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    let bytes = segment::list(from)?.iter().map(|segment| segment.bytes).sum();
    let bar = ProgressBar::new(bytes).with_style(ProgressStyle::with_template(
        "copying {bar:40} {bytes} of {total_bytes}, {eta} left",
    )?);
    let home = Folder::private_at(data_dir);
    let source = Source { home: &home, journal: from };
    let copied = copy::copy(source, &to, waiting(options.wait), |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let copied = copied.with_context(|| format!("cannot copy to {}", folder.display()))?;
    let mut others = Others::default();
    others.copy(data_dir, folder, 0, &mut target.made)?;
    let audit = verify::audit(&to)?;
    if audit.keeps_promises() {
        std::fs::rename(&unfinished, folder.join(JOURNAL))?;
    }
    sync_folder(folder)?;
    Ok(Taken { copied, others, audit })
}

/// Waits a moment for the end of an erasure, as long as there is time left.
fn waiting(most: Duration) -> impl FnMut() -> io::Result<()> {
    let mut left = most;
    move || {
        if left.is_zero() {
            return Err(io::Error::other(format!(
                "an order to erase stands in the data folder ({ORDER_FILE}), and a copy would have a part of what \
                 goes; take the backup once it is done, or let it wait longer with --wait. If no server runs, \
                 the next start carries it out"
            )));
        }
        let next = left.min(LOOK);
        left -= next;
        thread::sleep(next);
        Ok(())
    }
}

/// The folder of the backup, and all that is made for it.
#[derive(Debug)]
struct Target {
    folder: PathBuf,
    /// Folders and files, each before what is in it, but for the journal.
    made: Vec<PathBuf>,
    /// Whether a journal is there, of which all was made for this backup.
    has_journal: bool,
}

impl Target {
    /// Makes the folder, or finds it empty. Nothing is made of one that is in the data folder.
    fn prepare(data_dir: &Path, folder: &Path) -> anyhow::Result<Self> {
        let missing = missing_of(folder)?;
        // A link, or a mount, may give a folder several names.
        let places = [data_dir.to_owned(), data_dir.join(JOURNAL), data_dir.join(REJECTS)];
        let taken: Vec<_> = places.iter().filter_map(|path| identity(path).ok()).collect();
        let there = missing.first().map_or(folder, |first| parent_of(first)).canonicalize()?;
        for above in there.ancestors() {
            if taken.contains(&identity(above)?) {
                bail!("{} lies in the data folder; choose one outside of it", folder.display());
            }
        }
        let mut target = Self { folder: folder.to_owned(), made: Vec::new(), has_journal: false };
        for path in missing {
            let made = DirBuilder::new().mode(0o750).create(&path);
            let made = made.and_then(|()| {
                target.made.push(path.clone());
                sync_folder(parent_of(&path))
            });
            if let Err(error) = made {
                let error = anyhow::Error::new(error);
                let error = error.context(format!("cannot make {}", path.display()));
                return Err(error.context(target.remove()));
            }
        }
        if folder.join(UNFINISHED_BACKUP).is_dir() {
            bail!(
                "{} holds a backup that was not finished; remove it, or choose another folder",
                folder.display()
            );
        }
        if std::fs::read_dir(folder)?.next().is_some() {
            bail!("{} is not empty; choose another folder for this backup", folder.display());
        }
        Ok(target)
    }

    /// Removes all that was made, and nothing else; says what is left.
    fn remove(self) -> String {
        let mut left = Vec::new();
        let mut note = |path: &Path, removed: io::Result<()>| {
            if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
                left.push(path.display().to_string());
            }
        };
        if self.has_journal {
            for path in [UNFINISHED_BACKUP, JOURNAL].map(|name| self.folder.join(name)) {
                note(&path, std::fs::remove_dir_all(&path));
            }
        }
        for path in self.made.iter().rev() {
            let is_folder = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            // A folder only if it is empty: another may have begun to use it.
            let removed =
                if is_folder { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
            note(path, removed);
        }
        if left.is_empty() {
            "no backup was made, and nothing of it is left".to_owned()
        } else {
            format!("no backup was made; remove what is left of it: {}", left.join(", "))
        }
    }
}

/// The folders that must be made so that `folder` is there, the outermost first.
fn missing_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut path = folder;
    loop {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => bail!("{} is no folder; choose another", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot look at {}", path.display()));
            }
        }
        if path.is_symlink() {
            bail!("{} is a link that leads nowhere; choose another folder", path.display());
        }
        // What is not there yet has nothing above it that a name could go back to.
        if !matches!(path.components().next_back(), Some(Component::Normal(_))) {
            bail!("{} leads through a folder that is not there", folder.display());
        }
        missing.push(path.to_owned());
        path = parent_of(path);
    }
    missing.reverse();
    Ok(missing)
}

/// What is above a path; of a mere name the working folder.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is the same for all names of a folder.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// What lies beside the journal.
#[derive(Default)]
struct Others {
    /// How many files were copied.
    copied: usize,
    /// What is neither a file nor a folder.
    left_out: Vec<PathBuf>,
}

impl Others {
    /// Copies all files but the journal, the lock, orders to erase and what is not finished; notes each
    /// that is made.
    fn copy(
        &mut self,
        from: &Path,
        to: &Path,
        depth: usize,
        list: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(from)? {
            names.push(entry?.file_name());
        }
        // The file of refused bodies that grows before the one that it becomes: rather twice than not at all.
        names.sort();
        for name in names {
            let is_order = name.as_encoded_bytes().starts_with(ORDER_FILE.as_bytes());
            let is_part = depth > 0 || !(name == JOURNAL || name == LOCK_FILE || is_order);
            let is_finished = !name.to_str().is_some_and(is_unfinished);
            if is_part && is_finished {
                let (source, target) = (from.join(&name), to.join(&name));
                let is_key = depth == 0 && name == SESSION_KEY;
                let copied = if is_key {
                    self.key(&source, &target, list)
                } else {
                    self.one(&source, &target, depth, list)
                };
                copied.with_context(|| format!("cannot copy {}", source.display()))?;
            }
        }
        sync_folder(to)?;
        Ok(())
    }

    /// Copies the session key; a link in its place is an error, as it is for the server.
    fn key(&mut self, source: &Path, target: &Path, list: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        self.copied += usize::from(copy_file(source, target, 0o600, list)?);
        Ok(())
    }

    fn one(
        &mut self,
        source: &Path,
        target: &Path,
        depth: usize,
        list: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        match std::fs::symlink_metadata(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(found) if found.is_dir() && depth < DEPTH_MAX => {
                DirBuilder::new().mode(0o750).create(target)?;
                list.push(target.to_owned());
                self.copy(source, target, depth + 1, list)?;
            }
            Ok(found) if found.is_file() => {
                let mode = found.permissions().mode() & 0o777;
                self.copied += usize::from(copy_file(source, target, mode, list)?);
            }
            Ok(_) => self.left_out.push(source.to_owned()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Copies a file as long as it is now; false if it was removed.
fn copy_file(from: &Path, to: &Path, mode: u32, list: &mut Vec<PathBuf>) -> io::Result<bool> {
    let from = match files::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let bytes = from.metadata()?.len();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    list.push(to.to_owned());
    io::copy(&mut from.take(bytes), &mut file)?;
    file.sync_all()?;
    Ok(true)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn summary(
    out: &mut impl Write,
    folder: &Path,
    copied: &Copied,
    others: &Others,
) -> io::Result<()> {
    if copied.cut_bytes > 0 {
        writeln!(out, "note       {} bytes of a line that was being written", copied.cut_bytes)?;
    }
    match copied.checkpoint_seq {
        Some(seq) => writeln!(out, "checkpoint of the sessions at number {seq}")?,
        None => writeln!(out, "checkpoint none yet; a start reads the whole journal")?,
    }
    if !folder.join(SESSION_KEY).is_file() {
        writeln!(
            out,
            "note       the session key is not in the data folder; keep session.key too"
        )?;
    }
    for path in &others.left_out {
        let path = path.display();
        writeln!(out, "note       {path} is no file; it was not copied, nor what it leads to")?;
    }
    let (segments, others, folder) = (copied.segments, others.copied, folder.display());
    writeln!(out, "backup     {segments} segments and {others} other files in {folder}")
}
