//! What was used last, and not more of it than there is room for.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Things by their key, so many at most: the one that was not used for the longest time goes first.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    /// With when it was used last.
    kept: BTreeMap<K, (V, u64)>,
    most: usize,
    /// Counts uses.
    tick: u64,
}

impl<K: Ord + Clone, V: Clone> Recent<K, V> {
    pub const fn new(most: usize) -> Recent<K, V> {
        Recent { kept: BTreeMap::new(), most, tick: 0 }
    }

    /// Uses one that is there.
    pub fn get<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.tick += 1;
        let (value, used) = self.kept.get_mut(key)?;
        *used = self.tick;
        Some(value.clone())
    }

    /// As used now.
    pub fn put(&mut self, key: K, value: V) {
        self.tick += 1;
        if self.kept.len() >= self.most {
            let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.kept.remove(&oldest));
        }
        self.kept.insert(key, (value, self.tick));
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.kept.remove(key);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}
