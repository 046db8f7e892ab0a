//! A copy of the data folder that a server can be started on, taken while another one runs.
//!
//! The journal gets its name last: a folder whose backup was not finished has a folder `journal.unfinished`, and
//! no server starts on it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{journal_of, verify};
use crate::data_dir::{JOURNAL, LOCK_FILE, SESSION_KEY, UNFINISHED_BACKUP};
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
    /// The folder of the backup; it is made if it is missing, and must be empty
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,

    /// How long to wait, in all, for the end of an erasure that is going on
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// Copies the data folder, and holds the copy to its promises.
pub(super) fn main(data_dir: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let from = journal_of(data_dir)?;
    let folder = &options.folder;
    prepare(data_dir, folder)?;
    let unfinished = folder.join(UNFINISHED_BACKUP);
    let to = Folder::make(&unfinished)
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    let bytes = segment::list(&from)?.iter().map(|segment| segment.bytes).sum();
    let bar = ProgressBar::new(bytes).with_style(ProgressStyle::with_template(
        "copying {bar:40} {bytes} of {total_bytes}, {eta} left",
    )?);
    let home = Folder::private_at(data_dir);
    let source = Source { home: &home, journal: &from };
    let copied = copy::copy(source, &to, waiting(options.wait), |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    if copied.is_err() {
        // If nothing is in it, this folder can be used again.
        let _ = std::fs::remove_dir(&unfinished);
    }
    let copied = copied.with_context(|| format!("cannot copy to {}", folder.display()))?;
    let mut others = Others::default();
    others.copy(data_dir, folder, 0)?;
    let audit = verify::audit(&to)?;
    let is_good = audit.keeps_promises();
    if is_good {
        std::fs::rename(&unfinished, folder.join(JOURNAL))?;
    }
    sync_folder(folder)?;
    let out = &mut std::io::stdout().lock();
    audit.summary(out)?;
    summary(out, folder, &copied, &others)?;
    if is_good {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "problem    no server starts on this copy: its journal is left as {UNFINISHED_BACKUP}; if the one that \
         was copied has the same problems, rename it to {JOURNAL} to use it all the same"
    )?;
    Ok(ExitCode::FAILURE)
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

/// Makes the folder, or finds it empty and outside of the data folder.
fn prepare(data_dir: &Path, folder: &Path) -> anyhow::Result<()> {
    if !folder.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
        if let Some(parent) = folder.canonicalize()?.parent() {
            sync_folder(parent)?;
        }
    }
    if folder.canonicalize()?.starts_with(data_dir.canonicalize()?) {
        bail!("{} lies in the data folder; choose one outside of it", folder.display());
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
    Ok(())
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
    /// Copies all files but the journal, the lock, orders to erase and what is not finished.
    fn copy(&mut self, from: &Path, to: &Path, depth: usize) -> anyhow::Result<()> {
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
                    self.key(&source, &target)
                } else {
                    self.one(&source, &target, depth)
                };
                copied.with_context(|| format!("cannot copy {}", source.display()))?;
            }
        }
        sync_folder(to)?;
        Ok(())
    }

    /// Copies the session key; a link in its place is an error, as it is for the server.
    fn key(&mut self, source: &Path, target: &Path) -> anyhow::Result<()> {
        self.copied += usize::from(copy_file(source, target, 0o600)?);
        Ok(())
    }

    fn one(&mut self, source: &Path, target: &Path, depth: usize) -> anyhow::Result<()> {
        match std::fs::symlink_metadata(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(found) if found.is_dir() && depth < DEPTH_MAX => {
                DirBuilder::new().mode(0o750).create(target)?;
                self.copy(source, target, depth + 1)?;
            }
            Ok(found) if found.is_file() => {
                let mode = found.permissions().mode() & 0o777;
                self.copied += usize::from(copy_file(source, target, mode)?);
            }
            Ok(_) => self.left_out.push(source.to_owned()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Copies a file as long as it is now; false if it was removed.
fn copy_file(from: &Path, to: &Path, mode: u32) -> io::Result<bool> {
    let from = match files::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let bytes = from.metadata()?.len();
    let mut to = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut from.take(bytes), &mut to)?;
    to.sync_all()?;
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
