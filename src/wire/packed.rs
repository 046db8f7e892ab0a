//! A body as it came, packed or not.
//!
//! A packed body is unpacked only once all of it is there: so what a client makes us hold while it is slow is what
//! it has sent, and not the hundredfold of it.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::GzDecoder;

use super::Violations;

/// How many members, one after the other, a gzip may have. One is usual, some libraries flush into a new one, and
/// each costs some ten microseconds however short it is.
const GZIP_MEMBERS_MAX: usize = 16;

/// How much is unpacked at a time.
const PIECE_BYTES: usize = 16 << 10;

/// The bytes that every gzip begins with. No JSON begins with the first of them.
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// How a body is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// As gzip, of one member or several.
    Gzip,
}

/// A whole body as it came.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// Its bytes.
    pub bytes: Bytes,
    /// How they are packed.
    pub encoding: Encoding,
}

/// Why a body cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum NotUnpacked<E> {
    /// It is larger than it may be.
    #[error("it is larger than it may be")]
    TooLarge,
    /// It is not what it says.
    #[error(transparent)]
    NotGzip(NotGzip),
    /// There is no room for it.
    #[error("there is no room for it")]
    NoRoom(E),
}

/// What is wrong with a body that should be gzip.
#[derive(Debug, thiserror::Error)]
pub enum NotGzip {
    /// There is nothing.
    #[error("the body is marked gzip (Content-Encoding), but it is empty")]
    Empty,
    /// It is JSON as it is.
    #[error(
        "the body is marked gzip (Content-Encoding), but does not begin with the bytes of gzip (1f 8b at index 0); it \
         looks like plain JSON: leave Content-Encoding out"
    )]
    Plain,
    /// It is something else.
    #[error(
        "the body is marked gzip (Content-Encoding), but is not gzip: it does not begin with 1f 8b (index 0); pack it \
         with gzip{}, or leave Content-Encoding out", if *.is_zlib { ", not with deflate (zlib)" } else { "" }
    )]
    Other {
        /// Whether it looks like zlib, which is called deflate in HTTP.
        is_zlib: bool,
    },
    /// Its end is missing.
    #[error(
        "the gzip of the body is cut off: its {bytes} bytes end in the middle (index {bytes}); send all of it"
    )]
    CutOff {
        /// How many bytes there are.
        bytes: usize,
    },
    /// Its bytes are not what was packed.
    #[error("the gzip of the body is damaged before index {index}: {source}")]
    Damaged {
        /// How many bytes were read until it showed.
        index: usize,
        /// How it is.
        source: io::Error,
    },
    /// Something else follows it.
    #[error(
        "the gzip of the body ends at index {index}, and what follows is not gzip; send nothing behind it"
    )]
    Trailing {
        /// Where that begins.
        index: usize,
    },
    /// It has more members than are read.
    #[error(
        "the gzip of the body has more than {GZIP_MEMBERS_MAX} members (index {index}); pack it at once"
    )]
    TooManyMembers {
        /// Where the first begins that is too many.
        index: usize,
    },
}

impl From<NotGzip> for Violations {
    fn from(fault: NotGzip) -> Self {
        Self::unreadable(fault.to_string())
    }
}

/// Whether a body looks like zlib, which is called deflate in HTTP.
pub(super) fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..])
}

/// Whether a body is gzip by its first bytes, whatever its head says; nothing as long as that does not show.
pub fn is_gzip(arrived: &[u8]) -> Option<bool> {
    if arrived.len() >= GZIP_MAGIC.len() {
        return Some(arrived.starts_with(&GZIP_MAGIC));
    }
    if GZIP_MAGIC.starts_with(arrived) { None } else { Some(false) }
}

impl Packed {
    /// A body that is not packed.
    pub fn plain(bytes: Bytes) -> Self {
        Self { bytes, encoding: Encoding::Identity }
    }

    /// The body unpacked, if it has at most `bytes_max`. Before it grows, `reserve` is called with the bytes that it
    /// is about to hold beside the packed ones.
    ///
    /// # Errors
    /// [`NotUnpacked`]; whatever `reserve` says is one of them.
    pub fn unpack<E>(
        &self,
        bytes_max: usize,
        mut reserve: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Bytes, NotUnpacked<E>> {
        if self.encoding == Encoding::Identity {
            let fits = self.bytes.len() <= bytes_max;
            return if fits { Ok(self.bytes.clone()) } else { Err(NotUnpacked::TooLarge) };
        }
        let mut unpacked = Vec::new();
        let mut members = Members::of(&self.bytes);
        let mut piece = [0; PIECE_BYTES];
        loop {
            if unpacked.capacity() - unpacked.len() < PIECE_BYTES {
                let capacity = (unpacked.capacity() / 2 * 3)
                    .clamp(2 * PIECE_BYTES, bytes_max + 2 * PIECE_BYTES);
                reserve(capacity).map_err(NotUnpacked::NoRoom)?;
                unpacked.reserve_exact(capacity - unpacked.len());
            }
            let read = members.next(&mut piece).map_err(NotUnpacked::NotGzip)?;
            if read == 0 {
                return Ok(unpacked.into());
            }
            if unpacked.len() + read > bytes_max {
                return Err(NotUnpacked::TooLarge);
            }
            unpacked.extend_from_slice(&piece[..read]);
        }
    }
}

/// The first byte of what a body that has not come whole yet unpacks to, blanks passed over; nothing if that cannot
/// be told from the first `bytes_max` bytes of it.
pub fn first_unpacked(arrived: &[u8], encoding: Encoding, bytes_max: usize) -> Option<u8> {
    let first = |bytes: &[u8]| bytes.trim_ascii_start().first().copied();
    if encoding == Encoding::Identity {
        return first(arrived);
    }
    let mut members = Members::of(arrived);
    let mut unpacked = 0;
    let mut piece = [0; 512];
    while unpacked < bytes_max {
        match members.next(&mut piece) {
            Ok(read) if read > 0 => {
                if let Some(first) = first(&piece[..read]) {
                    return Some(first);
                }
                unpacked += read;
            }
            // It may go on, or be no gzip; that shows once all of it is there.
            _ => return None,
        }
    }
    None
}

/// The members of a gzip, one after the other.
struct Members<'b> {
    bytes: &'b [u8],
    member: GzDecoder<&'b [u8]>,
    count: usize,
}

impl<'b> Members<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, member: GzDecoder::new(bytes), count: 1 }
    }

    /// Unpacks the next piece; none of it is left if that has no bytes.
    fn next(&mut self, piece: &mut [u8]) -> Result<usize, NotGzip> {
        loop {
            let read = self.member.read(piece).map_err(|error| self.fault(error))?;
            let rest = *self.member.get_ref();
            if read > 0 || rest.is_empty() {
                return Ok(read);
            }
            let index = self.index();
            if is_gzip(rest) == Some(false) {
                return Err(NotGzip::Trailing { index });
            }
            self.count += 1;
            if self.count > GZIP_MEMBERS_MAX {
                return Err(NotGzip::TooManyMembers { index });
            }
            self.member = GzDecoder::new(rest);
        }
    }

    /// How much was read.
    fn index(&self) -> usize {
        self.bytes.len() - self.member.get_ref().len()
    }

    fn fault(&self, error: io::Error) -> NotGzip {
        match self.bytes {
            [] => NotGzip::Empty,
            bytes if is_gzip(bytes) == Some(false) => match bytes.trim_ascii_start() {
                [b'{' | b'[', ..] => NotGzip::Plain,
                _ => NotGzip::Other { is_zlib: is_zlib(bytes) },
            },
            bytes if error.kind() == io::ErrorKind::UnexpectedEof => {
                NotGzip::CutOff { bytes: bytes.len() }
            }
            _ => NotGzip::Damaged { index: self.index(), source: error },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
        let packed = Packed { bytes: Bytes::copy_from_slice(bytes), encoding: Encoding::Gzip };
        let unpacked = packed.unpack(bytes_max, |_| Ok::<(), ()>(()));
        unpacked.map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_gzip_of_one_member_or_several_is_unpacked_up_to_its_bound() {
        let text = b"0123456789".repeat(10_000);
        assert_eq!(unpack(&gzip(&text), text.len()).unwrap(), text);
        assert!(unpack(&gzip(&text), text.len() - 1).unwrap_err().contains("larger"));
        let two = [gzip(&text[..7]), gzip(b""), gzip(&text[7..])].concat();
        assert_eq!(unpack(&two, text.len()).unwrap(), text);
        for broken in [&two[..two.len() - 1], &two[..5], b"", b"text", &[&two[..], b"x"].concat()] {
            assert!(unpack(broken, text.len()).is_err());
        }
        let with_empty = |count| [gzip(b"").repeat(count), gzip(b"x")].concat();
        assert_eq!(unpack(&with_empty(15), 9).unwrap(), b"x");
        assert!(unpack(&with_empty(16), 9).unwrap_err().contains("more than 16 members"));
    }

    #[test]
    fn what_is_wrong_with_a_gzip_is_named_with_its_place() {
        let text = br#"{"eventType":"ping","playerTime":{"playhead":1,"ts":2}}"#.repeat(20);
        let packed = gzip(&text);
        let mut damaged = packed.clone();
        let end = damaged.len();
        damaged[end - 6] ^= 1;
        for (body, named) in [
            (&b""[..], "but it is empty"),
            (&text, "it looks like plain JSON: leave Content-Encoding out"),
            (b" \n[]", "it looks like plain JSON: leave Content-Encoding out"),
            (b"\x78\x9c\x03\x00", "pack it with gzip, not with deflate (zlib)"),
            (b"no gzip", "does not begin with 1f 8b (index 0)"),
            (&packed[..1], "is cut off: its 1 bytes end in the middle (index 1)"),
            (&packed[..5], "is cut off: its 5 bytes end in the middle (index 5)"),
            (&packed[..end / 2], "is cut off: its "),
            (&packed[..end - 1], "is cut off: its "),
            (&[&packed[..], &packed[..7]].concat(), "is cut off: its "),
            (&damaged, "is damaged before index "),
            (b"\x1f\x8b\x07\0\0\0\0\0\0\0", "is damaged before index "),
            (
                &[&packed[..], b"more"].concat(),
                &format!("ends at index {end}, and what follows is not gzip"),
            ),
        ] {
            let said = unpack(body, 100_000).unwrap_err();
            assert!(said.contains(named), "{named}: {said}");
            assert!(said.len() < 250, "{said}");
        }
    }

    #[test]
    fn the_first_two_bytes_tell_a_gzip_once_they_are_there() {
        for (bytes, is) in [
            (&b""[..], None),
            (b"\x1f", None),
            (b"\x1f\x8b", Some(true)),
            (b"\x1f\x8b\x08", Some(true)),
            (b"{", Some(false)),
            (b"\x1f{", Some(false)),
        ] {
            assert_eq!(is_gzip(bytes), is, "{bytes:?}");
        }
    }

    #[test]
    fn room_is_reserved_before_it_is_used_and_only_a_little_too_much() {
        let text = vec![b' '; 1_000_000];
        let packed = Packed { bytes: gzip(&text).into(), encoding: Encoding::Gzip };
        let mut reserved = 0;
        packed
            .unpack(text.len(), |bytes| {
                reserved = bytes;
                Ok::<(), ()>(())
            })
            .unwrap();
        assert!((1_000_000..1_100_000).contains(&reserved), "{reserved}");
        let refused =
            packed.unpack(text.len(), |bytes| if bytes > 99_999 { Err(bytes) } else { Ok(()) });
        assert!(matches!(refused, Err(NotUnpacked::NoRoom(110_592))), "{refused:?}");
    }

    #[test]
    fn what_a_body_begins_with_shows_before_all_of_it_is_there() {
        let text = [&[b' '; 100], &b"[1,2,3]"[..]].concat();
        let packed = [gzip(b""), gzip(&text)].concat();
        let first = |bytes, bytes_max| first_unpacked(bytes, Encoding::Gzip, bytes_max);
        assert_eq!(first(&packed, 1_000), Some(b'['));
        assert_eq!(first(&packed, 50), Some(b'['), "what one look shows counts");
        assert_eq!(first(&packed[..10], 1_000), None);
        assert_eq!(first(b"no gzip", 1_000), None);
        assert_eq!(first(&gzip(&[b' '; 5_000]), 1_000), None);
        assert_eq!(first_unpacked(b" \n{", Encoding::Identity, 0), Some(b'{'));
    }
}
