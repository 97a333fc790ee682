//! From prefixes to disjoint ranges.

/// A prefix and its value. IPv4 addresses are in the upper 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) start: u128,
    pub(crate) length: u8,
    pub(crate) value: T,
}

impl<T> Entry<T> {
    fn last(&self) -> u128 {
        self.start | u128::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }
}

/// The first address of a range and its value. The range ends before the next bound.
pub(crate) type Bound<T> = (u128, T);

/// Flattens nested prefixes into ranges that cover the whole address space, from address 0 on.
///
/// `combine(outer, inner)` is the value of a prefix inside another; addresses in no prefix have the
/// value `outside`. Adjacent ranges with the same value become one.
pub(crate) fn flatten<T: Copy + PartialEq>(
    mut entries: Vec<Entry<T>>,
    outside: T,
    combine: impl Fn(T, T) -> T,
) -> Vec<Bound<T>> {
    entries.sort_unstable_by_key(|entry| (entry.start, entry.length));
    let mut bounds = Bounds(Vec::with_capacity(entries.len() * 2 + 1));
    bounds.push(0, outside);
    // The prefixes around the current address, outermost first, each with its last address.
    let mut open: Vec<(u128, T)> = Vec::new();
    for entry in entries {
        close(&mut open, &mut bounds, outside, Some(entry.start));
        let value = combine(open.last().map_or(outside, |&(_, value)| value), entry.value);
        bounds.push(entry.start, value);
        open.push((entry.last(), value));
    }
    close(&mut open, &mut bounds, outside, None);
    bounds.0
}

/// Closes every open prefix that ends before `next`, or all if there is no next.
fn close<T: Copy + PartialEq>(
    open: &mut Vec<(u128, T)>,
    bounds: &mut Bounds<T>,
    outside: T,
    next: Option<u128>,
) {
    while let Some(&(last, _)) = open.last()
        && next.is_none_or(|next| last < next)
    {
        open.pop();
        if let Some(after) = last.checked_add(1) {
            bounds.push(after, open.last().map_or(outside, |&(_, value)| value));
        }
    }
}

struct Bounds<T>(Vec<Bound<T>>);

impl<T: Copy + PartialEq> Bounds<T> {
    fn push(&mut self, start: u128, value: T) {
        while self.0.last().is_some_and(|&(last, _)| last == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|&(_, last)| last != value) {
            self.0.push((start, value));
        }
    }
}
