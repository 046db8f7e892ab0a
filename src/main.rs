//! Flags in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    mediatally::commands::main()
}
