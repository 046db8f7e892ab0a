//! Flags in, exit code out.

use std::process::ExitCode;

/// glibc's allocator slows down as live sessions grow, because one thread frees what another allocated.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mediatally::commands::main()
}
