//! One way through a body, and what is named cut out of it or replaced on it.
//!
//! A member that is left out goes with the blanks around it and with one comma. The body is scanned once and
//! copied only if something is taken out of it.

use std::borrow::Cow;
use std::ops::Range;

use super::names::CUSTOMER_IDS;
use super::redact::{Place, REDACTED_BYTES_MAX, Reach, Redactor, Unredacted, Verdict};

/// How deeply arrays and objects may stand inside each other: no accepted body goes so deep.
const DEPTH_MAX: u8 = 64;

/// What some programs write before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

type Scanned = Result<(), Unredacted>;

/// One way through a body.
pub(super) struct Scan<'r, 'b> {
    redactor: &'r Redactor,
    body: &'b [u8],
    reach: Reach,
    at: usize,
    depth: u8,
    /// What is written of the redacted body, and how far the body is in it.
    written: Vec<u8>,
    copied: usize,
}

impl<'r, 'b> Scan<'r, 'b> {
    /// From the beginning of a body.
    pub(super) fn new(redactor: &'r Redactor, body: &'b [u8], reach: Reach) -> Self {
        Self { redactor, body, reach, at: 0, depth: 0, written: Vec::new(), copied: 0 }
    }

    /// The body without what is named; the same one if nothing is.
    ///
    /// # Errors
    /// [`Unredacted`].
    pub(super) fn run(mut self) -> Result<Cow<'b, [u8]>, Unredacted> {
        self.blanks();
        if !matches!(self.next(), Some(b'{' | b'[')) {
            return Err(Unredacted::Unreadable);
        }
        self.value(Place::Body)?;
        self.blanks();
        if self.at < self.body.len() {
            return Err(Unredacted::Unreadable);
        }
        if self.copied == 0 {
            return Ok(Cow::Borrowed(self.body));
        }
        self.replace(self.at..self.at, "")?;
        Ok(Cow::Owned(self.written))
    }

    /// A value, as that of the member that `place` is told by.
    fn value(&mut self, place: Place) -> Scanned {
        let hides_names = self.reach == Reach::Everywhere
            && matches!(place, Place::Params | Place::Quality | Place::Metadata);
        match self.next() {
            Some(b'{') => self.object(|scan, name| scan.member(place, name)),
            Some(b'[') if !hides_names => {
                let is_stored = place == Place::Body && self.depth == 0;
                self.array(if is_stored { Place::Body } else { Place::Other })
            }
            Some(b'"') if !hides_names => {
                let text = self.string()?;
                if self.reach == Reach::Everywhere && holds_json(&self.text(text)?) {
                    return Err(Unredacted::Unreadable);
                }
                Ok(())
            }
            Some(b'[' | b'"') | None => Err(Unredacted::Unreadable),
            Some(_) => self.scalar(),
        }
    }

    /// A member whose name is read, up to the end of its value. Says whether it stays.
    fn member(&mut self, place: Place, name: &str) -> Result<bool, Unredacted> {
        match self.redactor.verdict(self.reach, place, name) {
            Verdict::Keep => self.value(place.of_member(self.reach, name)).map(|()| true),
            Verdict::Drop => self.pass().map(|_| false),
            Verdict::Hash if name == CUSTOMER_IDS => self.hash_ids(name).map(|()| true),
            Verdict::Hash => self.hash().map(|()| true),
        }
    }

    /// Replaces a value by its hash.
    fn hash(&mut self) -> Scanned {
        let value = self.pass()?;
        let hash = if self.body[value.start] == b'"' {
            self.redactor.hasher.hash(&self.text(value.clone())?)
        } else {
            let text = str::from_utf8(&self.body[value.clone()]);
            self.redactor.hasher.hash(text.map_err(|_| Unredacted::Unreadable)?)
        };
        self.replace(value, &format!("\"{hash}\""))
    }

    /// Replaces each value in an object of declared ids by its hash, but for the numbers that say how far a
    /// visitor is known.
    fn hash_ids(&mut self, name: &str) -> Scanned {
        match self.next() {
            Some(b'{') => self.object(|scan, name| scan.hash_ids(name).map(|()| true)),
            Some(b'0'..=b'9') if name == "authState" => self.scalar(),
            _ => self.hash(),
        }
    }

    /// Passes a value, whatever is in it.
    fn pass(&mut self) -> Result<Range<usize>, Unredacted> {
        let (begin, reach) = (self.at, self.reach);
        self.reach = Reach::Event;
        let passed = self.value(Place::Other);
        self.reach = reach;
        passed.map(|()| begin..self.at)
    }

    /// An object; each member is handed on once its name is read, and goes if it is told to.
    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<bool, Unredacted>,
    ) -> Scanned {
        self.open(b'{')?;
        let (mut begin, mut has_kept) = (self.at, false);
        self.blanks();
        if self.next() == Some(b'}') {
            return self.close(b'}');
        }
        loop {
            self.blanks();
            let name = self.string()?;
            let name = self.text(name)?;
            self.blanks();
            self.take(b':')?;
            self.blanks();
            let stays = member(self, &name)?;
            self.blanks();
            let (end, is_last) = (self.at, self.next() != Some(b','));
            match (stays, has_kept) {
                (true, _) => has_kept = true,
                // With the comma before it, or else with the one behind it.
                (false, true) => self.replace(begin - 1..end, "")?,
                (false, false) => self.replace(begin..end + usize::from(!is_last), "")?,
            }
            if is_last {
                return self.close(b'}');
            }
            self.take(b',')?;
            begin = self.at;
        }
    }

    fn array(&mut self, items: Place) -> Scanned {
        self.open(b'[')?;
        self.blanks();
        if self.next() == Some(b']') {
            return self.close(b']');
        }
        loop {
            self.blanks();
            self.value(items)?;
            self.blanks();
            if self.next() != Some(b',') {
                return self.close(b']');
            }
            self.take(b',')?;
        }
    }

    /// A string, with its quotes.
    fn string(&mut self) -> Result<Range<usize>, Unredacted> {
        let begin = self.at;
        self.take(b'"')?;
        loop {
            match self.next() {
                None => return Err(Unredacted::Unreadable),
                Some(b'\\') => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    return Ok(begin..self.at);
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// A number, a boolean or null.
    fn scalar(&mut self) -> Scanned {
        let is_of_it =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        let begin = self.at;
        while self.next().is_some_and(is_of_it) {
            self.at += 1;
        }
        if self.at > begin { Ok(()) } else { Err(Unredacted::Unreadable) }
    }

    /// The text of a string.
    fn text(&self, string: Range<usize>) -> Result<Cow<'b, str>, Unredacted> {
        let quoted = &self.body[string];
        let text = if quoted.contains(&b'\\') {
            serde_json::from_slice(quoted).ok().map(Cow::Owned)
        } else {
            str::from_utf8(&quoted[1..quoted.len() - 1]).ok().map(Cow::Borrowed)
        };
        text.ok_or(Unredacted::Unreadable)
    }

    /// Writes the body up to there, and then this in place of that part of it.
    fn replace(&mut self, part: Range<usize>, with: &str) -> Scanned {
        self.written.extend_from_slice(&self.body[self.copied..part.start]);
        self.written.extend_from_slice(with.as_bytes());
        self.copied = part.end;
        if self.written.len() > REDACTED_BYTES_MAX.max(self.body.len()) {
            return Err(Unredacted::TooLarge);
        }
        Ok(())
    }

    fn open(&mut self, bracket: u8) -> Scanned {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Unredacted::Unreadable);
        }
        self.take(bracket)
    }

    fn close(&mut self, bracket: u8) -> Scanned {
        self.depth -= 1;
        self.take(bracket)
    }

    fn take(&mut self, byte: u8) -> Scanned {
        if self.next() != Some(byte) {
            return Err(Unredacted::Unreadable);
        }
        self.at += 1;
        Ok(())
    }

    fn blanks(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn next(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }
}

/// Whether a text is probably an object or an array that was made a string of, be it twice, or stands in it.
fn holds_json(text: &str) -> bool {
    let is_blank = |c: char| c.is_whitespace() || c.is_control() || c == BYTE_ORDER_MARK;
    let begins = text.trim_start_matches(is_blank).starts_with(['{', '[', '"']);
    begins || (text.contains('{') && text.contains('"'))
}
