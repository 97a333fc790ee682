//! Texts that many entries have in common, once in memory.

use std::{collections::HashSet, sync::Arc};

use super::{Entry, Who};

/// Lets a million entries share the few texts that they have in common.
#[derive(Default)]
pub(super) struct Shared {
    texts: HashSet<Arc<str>>,
    people: HashSet<Arc<Who>>,
}

impl Shared {
    pub(super) fn share(&mut self, entry: &mut Entry) {
        for text in [&mut entry.group, &mut entry.reason].into_iter().flatten() {
            *text = shared(&mut self.texts, text);
        }
        entry.by = shared(&mut self.people, &entry.by);
    }
}

fn shared<T: ?Sized + Eq + std::hash::Hash>(known: &mut HashSet<Arc<T>>, it: &Arc<T>) -> Arc<T> {
    if let Some(known) = known.get(&**it) {
        return known.clone();
    }
    known.insert(it.clone());
    it.clone()
}
