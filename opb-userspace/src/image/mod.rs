//! Stub of the image compiler: compiles nothing. To be overwritten.
use std::{cell::RefCell, collections::BTreeMap};

use opb_common::{
    image::Node,
    judge,
    outcome::{Direction, Outcome},
    settings::{PORTS, PortSet, Settings},
};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Slots(BTreeMap<String, u16>);

impl Slots {
    fn assign(&mut self, policy: &Policy) {
        for group in &policy.groups {
            let next = (1..=511).find(|slot| self.0.values().all(|taken| taken != slot));
            if let Some(next) = next {
                self.0.entry(group.name.clone()).or_insert(next);
            }
        }
    }
    pub fn name(&self, slot: u16) -> Option<&str> {
        self.0.iter().find(|(_, taken)| **taken == slot).map(|(name, _)| name.as_str())
    }
    pub fn get(&self, name: &str) -> Option<u16> {
        self.0.get(name).copied()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("stub")]
    Stub,
}

#[derive(Clone)]
pub struct Image {
    nodes: Vec<Node>,
    digest: [u8; 16],
    generation: u64,
    slots: Slots,
}

impl Image {
    pub fn compile(
        policy: &Policy,
        slots: &Slots,
        generation: u64,
        _now: jiff::Timestamp,
    ) -> Result<Self, CompileError> {
        let mut slots = slots.clone();
        slots.assign(policy);
        Ok(Self { nodes: vec![], digest: policy.digest(), generation, slots })
    }
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }
    pub fn generation(&self) -> u64 {
        self.generation
    }
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
    pub fn bytes(&self) -> usize {
        size_of_val(self.nodes())
    }
    pub fn upstream_ports(&self) -> &[u16] {
        &[25]
    }
    pub fn downstream_ports(&self) -> &[u16] {
        &[]
    }
}

pub struct Tables<'a> {
    nodes: &'a [Node],
    ports: Box<PortSet>,
    pub recorded: RefCell<Option<Outcome>>,
}

impl<'a> Tables<'a> {
    pub fn new(image: &'a Image) -> Self {
        let mut ports = Box::new([0; PORTS / 8]);
        ports[3] = 2;
        Self { nodes: image.nodes(), ports, recorded: RefCell::default() }
    }
}

impl judge::Tables for Tables<'_> {
    type Image = [Node];
    fn ports(&self, _: Settings) -> &PortSet {
        &self.ports
    }
    fn image(&self) -> Option<&[Node]> {
        Some(self.nodes)
    }
    fn record(&self, _: Direction, outcome: Outcome, _: usize) {
        *self.recorded.borrow_mut() = Some(outcome);
    }
}
