//! Names of members, as `privacy.drop` and `privacy.hash` list them.

use hashbrown::HashSet;

use crate::wire::is_name;

/// How long a name may be, in bytes. No key is longer that anybody would write down.
const NAME_BYTES_MAX: usize = 256;

/// What stands before the names of custom metadata.
const METADATA: &str = "customMetadata.";

/// The parameter whose value is an object of declared ids: of it the ids are hashed.
pub(super) const CUSTOMER_IDS: &str = "visitor.customerIDs";

/// Why a name cannot have the effect that whoever wrote it expects, and what to write instead; nothing if it can.
pub(super) fn misunderstanding(text: &str) -> Option<String> {
    if text.len() > NAME_BYTES_MAX {
        let begin = &text[..text.floor_char_boundary(40)];
        return Some(format!("\"{begin}…\" is longer than {NAME_BYTES_MAX} bytes"));
    }
    if text.contains(['"', '\'']) {
        // What hands on the environment may have left the marks around a list.
        return Some(format!("{text:?} has quotation marks in it; take them away"));
    }
    if let Some(rest) = text.strip_prefix(METADATA) {
        let stem = rest.strip_suffix('*').unwrap_or(rest);
        return (!stem.is_empty() && !stem.contains('*') && !is_name(stem)).then(|| {
            format!(
                "{text:?} names no custom metadata: its names have a-z, A-Z, 0-9, _ and . alone"
            )
        });
    }
    let (head, rest) = match text.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (text, None),
    };
    let why = match (head, rest) {
        ("eventType" | "playerTime", _) => "is what no report can do without".to_owned(),
        ("customMetadata", None) => {
            format!("names nothing in it; write \"{METADATA}*\" for all of it")
        }
        ("params" | "qoeData", None | Some("" | "*")) => {
            "names nothing in it; write the names of what is in it, such as \"visitor.*\""
                .to_owned()
        }
        ("params" | "qoeData", Some(rest)) => {
            format!("begins with where it stands; write {rest:?}")
        }
        _ => {
            let of_one = text.strip_prefix(CUSTOMER_IDS).filter(|rest| rest.starts_with('.'));
            of_one?;
            format!("names one of the declared ids, which go together; write {CUSTOMER_IDS:?}")
        }
    };
    Some(format!("{text:?} {why}"))
}

/// A name of `privacy.drop` or `privacy.hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'n> {
    /// Whether it names members of `customMetadata` alone.
    metadata_only: bool,
    /// The key, or what the keys begin with.
    text: &'n str,
    is_pattern: bool,
}

impl<'n> Name<'n> {
    /// Reads a name: a key, or what keys begin with up to a dot and then `*`; behind `customMetadata.` it means
    /// keys of custom metadata alone.
    pub(super) fn parse(name: &'n str) -> Option<Self> {
        let (metadata_only, rest) = match name.strip_prefix(METADATA) {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let (text, is_pattern) = match rest.strip_suffix('*') {
            Some(text) => (text, true),
            None => (rest, false),
        };
        // All of the metadata is a pattern too.
        let is_bounded = !is_pattern || text.ends_with('.') || (metadata_only && text.is_empty());
        let is_empty = text.is_empty() && !(metadata_only && is_pattern);
        let is_name = is_bounded && !is_empty && text != "." && !text.contains('*');
        (is_name && text.trim() == text).then_some(Self { metadata_only, text, is_pattern })
    }

    /// Whether it names members of `customMetadata` alone.
    pub(super) fn is_of_metadata(&self) -> bool {
        self.metadata_only
    }

    /// Whether it would name this parameter if case did not matter.
    pub(super) fn covers_in_other_case(&self, key: &str) -> bool {
        let (text, key) = (self.text.to_ascii_lowercase(), key.to_ascii_lowercase());
        Name { text: &text, ..*self }.covers_parameter(&key)
    }

    /// Whether it names this parameter.
    pub(super) fn covers_parameter(&self, key: &str) -> bool {
        !self.metadata_only
            && if self.is_pattern { key.starts_with(self.text) } else { key == self.text }
    }
}

/// The names of one list, by where they apply.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) anywhere: Listed,
    pub(super) metadata: Listed,
}

/// Keys, and what keys begin with.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    keys: HashSet<String>,
    beginnings: Vec<String>,
}

impl Names {
    /// The names of a list; what is no name is passed over.
    pub(super) fn of(list: &[String]) -> Self {
        let mut names = Self::default();
        for Name { metadata_only, text, is_pattern } in list.iter().filter_map(|n| Name::parse(n)) {
            let listed = if metadata_only { &mut names.metadata } else { &mut names.anywhere };
            if is_pattern {
                listed.beginnings.push(text.to_owned());
            } else {
                listed.keys.insert(text.to_owned());
            }
        }
        names
    }
}

impl Listed {
    /// Whether this key is one of them.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.keys.contains(name) || self.beginnings.iter().any(|begin| name.starts_with(begin))
    }
}
