//! Names of members, as `privacy.drop` and `privacy.hash` list them.

use hashbrown::HashSet;

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
        let (metadata_only, rest) = match name.strip_prefix("customMetadata.") {
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
