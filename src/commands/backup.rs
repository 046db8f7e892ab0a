//! A copy of the data folder that a server can be started on, taken while another one runs.
//!
//! The journal gets its name last: a folder whose backup was not finished has a folder `journal.unfinished`, and
//! no server starts on it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{journal_of, verify};
use crate::data_dir::{JOURNAL, LOCK_FILE, SESSION_KEY, UNFINISHED_BACKUP};
use crate::journal::copy::{self, Copied};
use crate::journal::disk::Folder;
use crate::journal::segment;

/// How deep the folders beside the journal may lie inside each other.
const DEPTH_MAX: usize = 8;

/// Where to.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The folder of the backup; it is made if it is missing, and must be empty
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
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
    let copied = copy::copy(&from, &to, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let copied = copied.with_context(|| format!("cannot copy to {}", unfinished.display()))?;
    let others = copy_others(data_dir, folder, 0)?;
    let audit = verify::audit(&to)?;
    std::fs::rename(&unfinished, folder.join(JOURNAL))?;
    sync_folder(folder)?;
    let out = &mut std::io::stdout().lock();
    audit.summary(out)?;
    summary(out, folder, &copied, others)?;
    Ok(if audit.keeps_promises() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// Copies all files but the journal, the lock and what is not finished; says how many.
fn copy_others(from: &Path, to: &Path, depth: usize) -> anyhow::Result<usize> {
    let mut copied = 0;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from)? {
        names.push(entry?.file_name());
    }
    // The file of refused bodies that grows before the one that it becomes: rather twice than not at all.
    names.sort();
    for name in names {
        let is_part = depth > 0 || !(name == JOURNAL || name == LOCK_FILE);
        let is_finished = !name.as_encoded_bytes().ends_with(b".new");
        if !is_part || !is_finished {
            continue;
        }
        let (source, target) = (from.join(&name), to.join(&name));
        let failed = || format!("cannot copy {}", source.display());
        match std::fs::symlink_metadata(&source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(found) if found.is_dir() && depth < DEPTH_MAX => {
                DirBuilder::new().mode(0o750).create(&target).with_context(failed)?;
                copied += copy_others(&source, &target, depth + 1)?;
            }
            Ok(found) if found.is_file() => {
                let is_key = depth == 0 && name == SESSION_KEY;
                let mode = if is_key { 0o600 } else { found.permissions().mode() & 0o777 };
                copied += usize::from(copy_file(&source, &target, mode).with_context(failed)?);
            }
            Ok(_) => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
    sync_folder(to)?;
    Ok(copied)
}

/// Copies a file as long as it is now; false if it was removed.
fn copy_file(from: &Path, to: &Path, mode: u32) -> io::Result<bool> {
    let from = match File::open(from) {
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

fn summary(out: &mut impl Write, folder: &Path, copied: &Copied, others: usize) -> io::Result<()> {
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
    let (segments, folder) = (copied.segments, folder.display());
    writeln!(out, "backup     {segments} segments and {others} other files in {folder}")
}
