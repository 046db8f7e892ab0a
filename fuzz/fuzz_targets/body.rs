//! Any bytes as the body of an event: nothing panics, what is refused is explained, and what is accepted
//! is JSON to another reader too.
//!
//! `cargo +nightly fuzz run body -- -max_total_time=60`

#![no_main]

use libfuzzer_sys::fuzz_target;
use mediatally::wire::{Event, Profile, Rules, Start};

fuzz_target!(|body: &[u8]| {
    for rules in [
        Rules { profile: Profile::Adobe, strict: true },
        Rules { profile: Profile::Open, strict: false },
    ] {
        for parsed in [Start::parse(body, rules).map(drop), Event::parse(body, rules).map(drop)] {
            match parsed {
                Ok(()) => assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok()),
                Err(violations) => assert!(!violations.listed().is_empty()),
            }
        }
    }
});
