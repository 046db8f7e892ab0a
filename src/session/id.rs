//! The id of a session: it cannot be guessed or forged, it tells its own age, and its second half
//! is a uniform hash.
//!
//! ```text
//! byte   0        6 7 8              16                              32
//!        ┌────────┬───┬───────────────┬───────────────────────────────┐
//!        │ ms     │ v7│ random        │ BLAKE3(key, bytes 0..16)[..16]│
//!        └────────┴───┴───────────────┴───────────────────────────────┘
//!          UUID version 7               message authentication code
//! ```
//! On the wire these are 64 lower-case hexadecimal digits. An id that we minted is told from one
//! that we never minted by its code alone, so closed sessions need not be remembered.

use std::fmt;

use constant_time_eq::constant_time_eq_16;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The secret that signs session ids. Machines that share it know each other's ids.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; Self::BYTES]);

impl Key {
    /// Length of a key in bytes; as text it has twice as many hexadecimal digits.
    pub const BYTES: usize = 32;

    /// A key of these bytes, which should be random.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads a key written as 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// A key for another purpose: who has it can tell nothing of this one.
    pub fn derived(&self, purpose: &str) -> [u8; Self::BYTES] {
        blake3::derive_key(purpose, &self.0)
    }

    /// The key as 64 hexadecimal digits, to be written where only the server can read it.
    pub fn to_secret_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(hidden)")
    }
}

/// The id of one session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// Makes the id of a session that starts at `now_ms` (ms since the Unix epoch).
    pub fn mint(key: &Key, now_ms: u64, random: [u8; 10]) -> Self {
        let uuid = uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid();
        let mut id = [0; 32];
        id[..16].copy_from_slice(uuid.as_bytes());
        id[16..].copy_from_slice(&mac(key, *uuid.as_bytes()));
        Self(id)
    }

    /// Reads an id from a path: exactly 64 lower-case hexadecimal digits.
    pub fn from_path(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        hex::decode_to_slice(text, &mut id).ok()?;
        (!text.bytes().any(|byte| byte.is_ascii_uppercase())).then_some(Self(id))
    }

    /// The id as bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Whether `key` signed this id.
    pub fn is_signed_by(&self, key: &Key) -> bool {
        let (uuid, code) = self.halves();
        constant_time_eq_16(&mac(key, uuid), &code)
    }

    /// When the id was minted, in ms since the Unix epoch.
    pub fn minted_ms(&self) -> u64 {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(ms)
    }

    /// Uniformly distributed bits of the id, for hash maps; nobody without the key can choose them.
    pub fn hash(&self) -> u64 {
        let (_, code) = self.halves();
        u64::from_le_bytes(*code.first_chunk().expect("sixteen bytes hold eight"))
    }

    fn halves(&self) -> ([u8; 16], [u8; 16]) {
        let (uuid, code) = self.0.split_at(16);
        (
            uuid.try_into().expect("the first half has sixteen bytes"),
            code.try_into().expect("the second half has sixteen bytes"),
        )
    }
}

fn mac(key: &Key, uuid: [u8; 16]) -> [u8; 16] {
    let hash = blake3::keyed_hash(&key.0, &uuid);
    *hash.as_bytes().first_chunk().expect("thirty-two bytes hold sixteen")
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).expect("64 digits write 32 bytes");
        formatter.pad(str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_path(&text).ok_or_else(|| serde::de::Error::custom("this is no session id"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SessionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_a_time_ordered_uuid_and_its_signature() {
        let id = SessionId::mint(&Key::new([7; 32]), 0x0123_4567_89AB, [0xFF; 10]);
        let text = id.to_string();
        assert!(text.starts_with("0123456789ab7fffbfffffffffffffff"), "{text}");
        assert_eq!(uuid::Uuid::from_slice(&id.0[..16]).unwrap().get_version_num(), 7);
        assert_eq!(id.minted_ms(), 0x0123_4567_89AB);
    }

    #[test]
    fn only_the_exact_spelling_is_an_id() {
        let id = SessionId::mint(&Key::new([7; 32]), 1, [0xAB; 10]).to_string();
        assert!(SessionId::from_path(&id).is_some());
        for wrong in
            ["", "xyz", &id[1..], &format!("{id}0"), &id.to_uppercase(), &id.replace('a', "g")]
        {
            assert_eq!(SessionId::from_path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", Key::new([7; 32])), "Key(hidden)");
    }

    proptest! {
        #[test]
        fn an_id_survives_its_text_and_only_its_own_key_signed_it(
            key: [u8; 32], other: [u8; 32], now_ms in 0_u64..1 << 48, random: [u8; 10], flip in 0_usize..256,
        ) {
            prop_assume!(key != other);
            let id = SessionId::mint(&Key::new(key), now_ms, random);
            prop_assert_eq!(SessionId::from_path(&id.to_string()), Some(id));
            prop_assert!(id.is_signed_by(&Key::new(key)));
            prop_assert!(!id.is_signed_by(&Key::new(other)));
            let mut forged = id;
            forged.0[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!forged.is_signed_by(&Key::new(key)), "bit {} flipped", flip);
        }
    }
}
