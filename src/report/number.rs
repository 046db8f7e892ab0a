//! Numbers as a report writes them: as short as they are exact.
//!
//! A whole number has no fraction (`15`, never `15.0`), so that a reader who wants integers finds them.

use serde::{Serialize, Serializer};

/// The largest integer that every JSON reader holds exactly is one less.
const EXACT_END: f64 = 9_007_199_254_740_992.0;

/// A duration in ms, written in seconds with up to three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) u64);

impl Serialize for Seconds {
    #[expect(clippy::cast_precision_loss, reason = "beyond 285 000 years")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 1_000 {
            0 => serializer.serialize_u64(self.0 / 1_000),
            _ => serializer.serialize_f64(self.0 as f64 / 1_000.0),
        }
    }
}

/// A number, written without a fraction if it has none; null if it is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plain(pub(super) f64);

impl Plain {
    /// Rounds to six decimals.
    pub(super) fn rounded(number: f64) -> Self {
        const DECIMALS: f64 = 1e6;
        let scaled = (number * DECIMALS).round();
        // A greater one has no six decimals that could be rounded.
        Self(if scaled.abs() < EXACT_END { scaled / DECIMALS } else { number })
    }
}

impl Serialize for Plain {
    #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and fits")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < EXACT_END {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(number: impl Serialize) -> String {
        serde_json::to_string(&number).unwrap()
    }

    #[test]
    fn numbers_are_as_short_as_they_are_exact() {
        assert_eq!(json(Seconds(44_999)), "44.999");
        assert_eq!(json(Seconds(15_000)), "15");
        assert_eq!(json(Seconds(10)), "0.01");
        assert_eq!(json(Plain(15.0)), "15");
        assert_eq!(json(Plain(-0.0)), "0");
        assert_eq!(json(Plain(23.976)), "23.976");
        assert_eq!(json(Plain(1e300)), "1e+300");
        assert_eq!(json(Plain(f64::INFINITY)), "null");
        assert_eq!(json(Plain::rounded(44.999 / 60.333_333_333_333_3)), "0.74584");
        assert_eq!(json(Plain::rounded(1.999_999_9)), "2");
        assert_eq!(json(Plain::rounded(1e300)), "1e+300");
    }
}
