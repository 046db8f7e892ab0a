//! The hash that stands in the journal in place of a value.

use crate::session::id::Key;

/// What the key of the hashes is derived for.
const CONTEXT: &str = "mediatally 2026-11 keyed hash of privacy.hash";

/// What every hash begins with.
const PREFIX: &str = "h_";

/// How many bytes of the hash are kept; as text they have twice as many digits.
const BYTES: usize = 16;

/// Hashes values so that the same one always gives the same hash, which only those who have the session key can
/// compute.
#[derive(Clone)]
pub struct Hasher([u8; 32]);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher(hidden)")
    }
}

impl Hasher {
    /// A hasher with a key of its own, derived from the one that signs session ids.
    pub fn new(key: &Key) -> Self {
        Self(key.derived(CONTEXT))
    }

    /// What stands in the journal for a value: `h_` and 32 hexadecimal digits. The value is a text without its
    /// quotes and escapes, or any other JSON value as it is written.
    pub fn hash(&self, value: &str) -> String {
        let hash = blake3::keyed_hash(&self.0, value.as_bytes());
        format!("{PREFIX}{}", hex::encode(&hash.as_bytes()[..BYTES]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_for_the_same_value_and_key_only() {
        let hash = |value| Hasher::new(&Key::new([7; 32])).hash(value);
        // Journals hold it, so it must stay the same.
        assert_eq!(hash("anna"), "h_1a3fecf26867d8e96cd9a80d42cfb963");
        assert_ne!(hash("anna"), hash("bert"));
        assert_ne!(Hasher::new(&Key::new([8; 32])).hash("anna"), hash("anna"));
    }
}
