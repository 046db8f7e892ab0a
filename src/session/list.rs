//! A list that has room for what is in it and for nothing more.
//!
//! A million sessions hold several lists each, most of them empty or with one entry; room kept for later
//! would be most of what they hold. Its heap is its entries, so what is counted is what is held.

use std::mem;
use std::ops::{Deref, DerefMut, Range};

use serde::{Deserialize, Serialize};

/// A list that has room for what is in it and for nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(Box<[T]>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> List<T> {
    /// Adds an item at the end.
    pub(super) fn push(&mut self, item: T) {
        let end = self.len();
        self.replace(end..end, item);
    }

    /// Puts one item in the place of those in `range`, which may be none.
    pub(super) fn replace(&mut self, range: Range<usize>, item: T) {
        if range.len() == 1 {
            self.0[range.start] = item;
            return;
        }
        let mut items = mem::take(&mut self.0).into_vec();
        items.reserve_exact(usize::from(range.is_empty()));
        items.splice(range, [item]);
        self.0 = items.into_boxed_slice();
    }

    /// The memory of its entries, without what those hold themselves, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        allocated(size_of_val(&*self.0))
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// What an allocation of so many bytes takes: allocators give multiples of 16, and nothing for nothing.
pub(super) const fn allocated(bytes: usize) -> usize {
    const UNIT: usize = 16;
    bytes.div_ceil(UNIT) * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_item_takes_the_place_of_none_one_or_many() {
        let mut list = List::default();
        assert_eq!(list.heap_bytes(), 0);
        for item in [1_u32, 3, 4, 5] {
            list.push(item);
        }
        list.replace(1..1, 2);
        assert_eq!(*list, [1, 2, 3, 4, 5]);
        list.replace(0..1, 9);
        list.replace(1..4, 8);
        assert_eq!(*list, [9, 8, 5]);
        assert_eq!(list.heap_bytes(), 16, "an allocator gives 16 for 12");
        assert_eq!(serde_json::to_string(&list).unwrap(), "[9,8,5]");
    }
}
