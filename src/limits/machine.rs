//! How much memory the system gives this process.

use super::memory::Origin;
use crate::size::Size;

/// What is assumed where the system does not tell.
const ASSUMED: Size = Size::gib(1);

/// The memory that this process can have, and where that is known from.
#[cfg(target_os = "linux")]
pub(super) fn memory() -> (Size, Origin) {
    use procfs::Current;

    let machine = procfs::Meminfo::current().ok().map(|meminfo| meminfo.mem_total);
    match (control_group(), machine) {
        // A limit beyond the machine's memory limits nothing.
        (Some(limit), Some(total)) if limit < total => (Size::bytes(limit), Origin::ControlGroup),
        (_, Some(total)) => (Size::bytes(total), Origin::Machine),
        (Some(limit), None) => (Size::bytes(limit), Origin::ControlGroup),
        (None, None) => (ASSUMED, Origin::Assumed),
    }
}

/// The memory that this process can have, and where that is known from.
#[cfg(not(target_os = "linux"))]
pub(super) fn memory() -> (Size, Origin) {
    (ASSUMED, Origin::Assumed)
}

/// The smallest limit of the control group of this process and of those above it, in bytes.
#[cfg(target_os = "linux")]
fn control_group() -> Option<u64> {
    let groups = procfs::process::Process::myself().ok()?.cgroups().ok()?;
    let limits = groups.into_iter().filter_map(|group| {
        // Version 2 has one hierarchy, numbered 0, with all controllers.
        let (root, file) = if group.hierarchy == 0 {
            ("/sys/fs/cgroup", "memory.max")
        } else if group.controllers.iter().any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        smallest_limit(std::path::Path::new(root), &group.pathname, file)
    });
    limits.min()
}

/// The smallest limit on the way from a group to the root. In a container the group's path may be one of the
/// outside that is not there; then the root that is there has the container's own limit.
#[cfg(target_os = "linux")]
fn smallest_limit(root: &std::path::Path, group: &str, file: &str) -> Option<u64> {
    let group = root.join(group.trim_start_matches('/'));
    let folders = group.ancestors().take_while(|folder| folder.starts_with(root));
    folders
        .filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
        // "max" sets no limit.
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_binds() {
        let root = tempfile::tempdir().unwrap();
        let limit = |group: &str, text: &str| {
            let folder = root.path().join(group);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("memory.max"), text).unwrap();
        };
        let smallest = |group| smallest_limit(root.path(), group, "memory.max");
        assert_eq!(smallest("/a/b"), None);
        limit("a/b", "max\n");
        assert_eq!(smallest("/a/b"), None);
        limit("a", "4096\n");
        limit("a/b", "8192\n");
        limit("", "16384\n");
        assert_eq!(smallest("/a/b"), Some(4_096));
        assert_eq!(smallest("/outside/of/the/container"), Some(16_384));
    }

    #[test]
    fn this_machine_has_memory() {
        let (size, origin) = memory();
        assert!(size >= Size::mib(64) && origin != Origin::Assumed, "{size} {origin:?}");
    }
}
