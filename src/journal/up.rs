//! Until when a server was up that had nothing to write.
//!
//! The next start takes the time since the last record for time that the server was down, unless it knows better.
//! So while sessions are live and nothing is written, an empty file tells by its name until when the server was
//! certainly up: `up-00000001700000000000`, in ms since the Unix epoch by the server's clock, as if its stamps had never
//! been set back. A name is changed whole or not at all.
//!
//! It is no record, and no fold reads it: the next start turns it into the `down_ms` of its `pause`.

use std::io;

use super::disk::Disk;
use crate::clock::LATEST_MS;

const PREFIX: &str = "up-";

/// How many digits the time has in the name.
const MS_DIGITS: usize = 20;

/// For how long nothing was written before a mark is made, in ms: at first, so that a server that crashes again and
/// again soon after its start loses at most half of each run; and at most.
const PAUSE_MS: (u64, u64) = (1_000, 10_000);

/// Notes now and then that the server is up.
#[derive(Debug)]
pub(super) struct UpMark {
    /// The last mark, or the last attempt at one, in ms since the Unix epoch.
    noted_ms: u64,
    /// How long after the last record or mark the next one is made, in ms.
    pause_ms: u64,
}

impl Default for UpMark {
    fn default() -> Self {
        Self { noted_ms: 0, pause_ms: PAUSE_MS.0 }
    }
}

impl UpMark {
    /// Notes that the server is up, if the last record, received at `written_ms`, does not tell that well enough. A
    /// disk that does not take the mark may take records, so that it does not is only logged.
    pub(super) fn note(&mut self, disk: &dyn Disk, now_ms: u64, written_ms: u64) {
        if now_ms.saturating_sub(self.noted_ms.max(written_ms)) < self.pause_ms {
            return;
        }
        self.noted_ms = now_ms;
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS.1);
        if let Err(error) = make(disk, now_ms) {
            tracing::warn!(%error, "that the server is up cannot be noted; a crash would count as a pause");
        }
    }
}

/// When the server was last up by the marks, in ms since the Unix epoch; none if there is no mark.
///
/// # Errors
/// What the system says.
pub(super) fn until(disk: &dyn Disk) -> io::Result<Option<u64>> {
    Ok(list(disk)?.last().copied())
}

/// The times of the marks, the earliest first. There is one, but for what somebody copied here.
fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let files = disk.list()?;
    let mut times: Vec<_> = files.iter().filter_map(|(name, _)| time_of(name)).collect();
    times.sort_unstable();
    Ok(times)
}

fn make(disk: &dyn Disk, now_ms: u64) -> io::Result<()> {
    let name = name_of(now_ms);
    let mut old = list(disk)?;
    match old.pop() {
        Some(last_ms) if last_ms >= now_ms => {}
        Some(last_ms) => disk.rename(&name_of(last_ms), &name)?,
        None => drop(disk.create(&name)?),
    }
    old.into_iter().try_for_each(|ms| disk.remove(&name_of(ms)))
}

fn name_of(ms: u64) -> String {
    format!("{PREFIX}{ms:020}")
}

/// The time that a name tells, if a server can have made it.
fn time_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    digits.parse().ok().filter(|ms| digits.len() == MS_DIGITS && *ms <= LATEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim::SimDisk;

    #[test]
    fn a_mark_is_made_soon_after_the_start_and_then_every_ten_seconds_of_silence() {
        let disk = SimDisk::default();
        let mut mark = UpMark::default();
        let mut made = Vec::new();
        for now_ms in (100_000..200_000).step_by(500) {
            // The last record was received at 100 s, and one more at 150 s.
            mark.note(&disk, now_ms, if now_ms < 150_000 { 100_000 } else { 150_000 });
            made.extend(until(&disk).unwrap());
        }
        made.dedup();
        let expected = [101, 103, 107, 115, 125, 135, 145, 160, 170, 180, 190];
        assert_eq!(made, expected.map(|s| s * 1_000));
        assert_eq!(disk.list().unwrap().len(), 1, "one file, whatever happens");
    }

    #[test]
    fn a_disk_that_fails_keeps_the_mark_before() {
        let disk = SimDisk::default();
        let mut mark = UpMark::default();
        mark.note(&disk, 5_000, 0);
        disk.fail_after(0, Some(1), 0);
        mark.note(&disk, 7_000, 0);
        assert_eq!(until(&disk).unwrap(), Some(5_000));
        mark.note(&disk, 11_000, 0);
        assert_eq!(until(&disk).unwrap(), Some(11_000));
    }

    #[test]
    fn only_names_of_marks_are_marks() {
        let disk = SimDisk::default();
        for name in ["up-7", "up-0000000000000000000x", "up-99999999999999999999", "up-"] {
            disk.write(name, Vec::new());
        }
        for ms in [LATEST_MS + 1, u64::MAX] {
            disk.write(&name_of(ms), Vec::new());
        }
        assert_eq!(until(&disk).unwrap(), None);
        disk.write(&name_of(3), Vec::new());
        disk.write(&name_of(8), Vec::new());
        assert_eq!(until(&disk).unwrap(), Some(8));
        make(&disk, 9).unwrap();
        assert_eq!(list(&disk).unwrap(), [9]);
    }
}
