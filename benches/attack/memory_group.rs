//! A memory group of the kernel around the server, where one can be made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use bytesize::ByteSize;

/// Where the kernel shows its groups.
const ROOT: &str = "/sys/fs/cgroup";

/// How often a group is asked to go after its process has ended.
const REMOVALS_MAX: u32 = 50;

/// A group of our own; it is removed when dropped.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    folder: PathBuf,
}

impl MemoryGroup {
    /// Makes a group with this much memory: below the one that this process is in, else at the top.
    pub(crate) fn make(size: ByteSize) -> io::Result<Self> {
        let name = format!("mediatally-attack-{}", std::process::id());
        let mut last = io::ErrorKind::NotFound.into();
        for (parent, limit) in places() {
            let group = Self { folder: parent.join(&name) };
            let made = fs::create_dir(&group.folder)
                .and_then(|()| fs::write(group.folder.join(limit), size.as_u64().to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The file into which a process writes its id to be in the group.
    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS_MAX {
            match fs::remove_dir(&self.folder) {
                // The kernel takes a moment to notice that the process has ended.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

/// Where a group may be made, and the name of its file for the limit: version 1, then version 2.
fn places() -> Vec<(PathBuf, &'static str)> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, limit) = match kinds {
            "" => (Path::new(ROOT).to_owned(), "memory.max"),
            _ if kinds.split(',').any(|kind| kind == "memory") => {
                (Path::new(ROOT).join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let below = root.join(path.trim_start_matches('/'));
        found.extend([(below, limit), (root, limit)]);
    }
    found.retain(|(parent, _)| parent.is_dir());
    found.sort_by_key(|(_, limit)| *limit == "memory.max");
    found
}

/// Says whether there will be a group.
pub(crate) fn describe(size: Option<ByteSize>) -> String {
    match size.map(|size| (size, MemoryGroup::make(size))) {
        None => "no memory group".to_owned(),
        Some((size, Ok(_))) => format!("in a memory group of {size}"),
        Some((_, Err(error))) => format!("no memory group can be made here ({error})"),
    }
}
