//! A size in bytes, as settings and messages write it.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes. As text it is exact: a whole number of the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many times 1024 KiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// So many times 1024 MiB.
    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// The size in bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The size in bytes, as far as this machine can address it.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
        let divides = |shift: &u32| self.0.trailing_zeros() >= *shift && self.0 > 0;
        let (shift, unit) = units.into_iter().find(|(shift, _)| divides(shift)).unwrap_or((0, "B"));
        write!(formatter, "{}{unit}", self.0 >> shift)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"128KiB\", or a number of bytes")
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                let wrong = |_| E::invalid_value(Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(Size).map_err(wrong)
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                let wrong = |_| E::invalid_value(Unexpected::Str(text), &self);
                ByteSize::from_str(text).map(|size| Size(size.as_u64())).map_err(wrong)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_exactly() {
        for (bytes, text) in [
            (0, "0B"),
            (2_000, "2000B"),
            (2_048, "2KiB"),
            (1 << 20, "1MiB"),
            ((1 << 30) + 1, "1073741825B"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(Size::bytes(bytes).to_string(), text);
            let read: Size = serde_json::from_value(text.into()).unwrap();
            assert_eq!(read.as_u64(), bytes);
        }
        assert!(serde_json::from_str::<Size>("\"a lot\"").is_err());
        assert!(serde_json::from_str::<Size>("-1").is_err());
    }
}
