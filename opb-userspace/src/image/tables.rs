//! The tables of a verdict on the host: an image in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use opb_common::{
    image::Node,
    outcome::{Counter, Direction, Outcome},
    settings::{PORTS, PortSet, Settings},
};

use super::Image;

/// An image, its ports, and counters that start at zero.
pub struct Tables<'a> {
    nodes: &'a [Node],
    upstream: Box<PortSet>,
    downstream: Box<PortSet>,
    lookups: Cell<u64>,
    counters: RefCell<BTreeMap<u32, Counter>>,
}

impl<'a> Tables<'a> {
    #[must_use]
    pub fn new(image: &'a Image) -> Self {
        Self {
            nodes: image.nodes(),
            upstream: port_set(image.upstream_ports()),
            downstream: port_set(image.downstream_ports()),
            lookups: Cell::new(0),
            counters: RefCell::default(),
        }
    }

    /// How often a verdict has asked for the image.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.lookups.get()
    }

    /// The counter that `outcome` moves.
    #[must_use]
    pub fn counter(&self, direction: Direction, outcome: Outcome) -> Counter {
        self.counters.borrow().get(&outcome.counter(direction)).copied().unwrap_or_default()
    }
}

impl opb_common::judge::Tables for Tables<'_> {
    type Image = [Node];

    fn ports(&self, settings: Settings) -> &PortSet {
        if settings.has(Settings::DOWNSTREAM) { &self.downstream } else { &self.upstream }
    }

    fn image(&self) -> Option<&[Node]> {
        self.lookups.set(self.lookups.get() + 1);
        Some(self.nodes)
    }

    fn record(&self, direction: Direction, outcome: Outcome, bytes: usize) {
        let mut counters = self.counters.borrow_mut();
        let counter = counters.entry(outcome.counter(direction)).or_default();
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }
}

/// The set of `ports`, one bit a port.
#[must_use]
pub fn port_set(ports: &[u16]) -> Box<PortSet> {
    let mut set = Box::new([0; PORTS / 8]);
    for port in ports {
        set[usize::from(port >> 3)] |= 1 << (port & 7);
    }
    set
}
