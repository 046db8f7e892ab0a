//! The plan of the house: pure rooms do not look into the world.

use std::path::Path;

/// What a pure room must not use: the rooms of the shell, and crates that touch the world.
const WORLD: [&str; 16] = [
    "crate::http",
    "crate::journal",
    "crate::live",
    "crate::collector",
    "crate::processor",
    "crate::clock",
    "crate::config",
    "crate::data_dir",
    "crate::telemetry",
    "crate::commands",
    "tokio",
    "axum",
    "hyper",
    "rand",
    "std::fs",
    "std::net",
];

#[test]
fn pure_rooms_use_nothing_of_the_world() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut left = ["wire", "session", "report"].map(|room| src.join(room)).to_vec();
    let mut read = 0;
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| line.trim_start().starts_with("use ")) {
                let used = WORLD.iter().find(|world| line.contains(&format!("use {world}")));
                assert_eq!(used, None, "{}: {line}", path.display());
            }
            read += 1;
        }
    }
    assert!(read >= 6);
}
