// SPDX-License-Identifier: Apache-2.0
//! What one watch knows.

use std::collections::BTreeMap;

/// News of one watch. Objects are told apart by a key of their own, such as a UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta<T> {
    /// Everything is told anew; what is not told by the end of it is gone.
    Begin,
    /// An object is like this.
    Is(String, T),
    /// An object is gone.
    Gone(String),
    /// Everything has been told.
    End,
}

/// The objects of one watch. What was known stays known while the watch is interrupted.
#[derive(Debug)]
pub(super) struct Store<T> {
    items: BTreeMap<String, T>,
    told_anew: Option<BTreeMap<String, T>>,
    complete: bool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            told_anew: None,
            complete: false,
        }
    }
}

impl<T: PartialEq> Store<T> {
    /// Takes news in. False if nothing is different now.
    pub(super) fn take(&mut self, delta: Delta<T>) -> bool {
        match delta {
            Delta::Begin => {
                self.told_anew = Some(BTreeMap::new());
                false
            }
            Delta::Is(key, item) => match &mut self.told_anew {
                Some(told) => {
                    told.insert(key, item);
                    false
                }
                None if self.items.get(&key) == Some(&item) => false,
                None => {
                    self.items.insert(key, item);
                    true
                }
            },
            Delta::Gone(key) => self.items.remove(&key).is_some(),
            Delta::End => {
                let Some(told) = self.told_anew.take() else {
                    return false;
                };
                let first = !std::mem::replace(&mut self.complete, true);
                let changed = first || told != self.items;
                self.items = told;
                changed
            }
        }
    }

    /// Whether everything was told once.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.items.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.items.keys()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.items.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(key: &str, value: u32) -> Delta<u32> {
        Delta::Is(key.to_owned(), value)
    }

    #[test]
    fn what_is_not_told_anew_is_gone_at_the_end_and_not_before() {
        let mut store = Store::default();
        assert!(!store.take(Delta::Begin));
        assert!(!store.take(is("a", 1)));
        assert!(!store.is_complete());
        assert!(store.take(Delta::End));
        assert!(store.take(is("b", 2)));
        assert!(!store.take(Delta::Begin));
        assert!(!store.take(is("b", 2)));
        assert_eq!(store.values().count(), 2, "known until everything was told");
        assert!(store.take(Delta::End));
        assert_eq!(store.get("a"), None);
        assert_eq!(store.get("b"), Some(&2));
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut store = Store::default();
        store.take(Delta::Begin);
        assert!(store.take(Delta::End), "an empty list is news the first time");
        assert!(store.take(is("a", 1)));
        assert!(!store.take(is("a", 1)));
        assert!(!store.take(Delta::Gone("b".to_owned())));
        assert!(store.take(Delta::Gone("a".to_owned())));
    }
}
