//! The tables of the verdict function on the host: an image in memory.

use opb_common::{
    image::ImageNode,
    outcome::{Direction, Outcome},
    settings::{PORTS, PortSet, Settings},
};

use super::{Image, Overlay};

/// An image, its ports, and an overlay with later changes.
pub struct Tables<'a> {
    nodes: &'a [ImageNode],
    overlay: Option<&'a [ImageNode]>,
    /// Ids of groups with a bypass, 0 if there is one for everybody.
    bypassed: &'a [u16],
    upstream: Box<PortSet>,
    downstream: Box<PortSet>,
}

impl<'a> Tables<'a> {
    #[must_use]
    pub fn new(image: &'a Image) -> Self {
        Self {
            nodes: image.nodes(),
            overlay: None,
            bypassed: &[],
            upstream: port_set(image.upstream_ports()),
            downstream: port_set(image.downstream_ports()),
        }
    }

    #[must_use]
    pub fn with_overlay(self, overlay: Option<&'a Overlay>) -> Self {
        Self { overlay: overlay.map(Overlay::nodes), ..self }
    }

    /// Adds bypasses of the groups with these ids; id 0 is one for everybody.
    #[must_use]
    pub fn with_bypasses(self, bypassed: &'a [u16]) -> Self {
        Self { bypassed, ..self }
    }
}

impl opb_common::judge::Tables for Tables<'_> {
    type Image<'a>
        = &'a [ImageNode]
    where
        Self: 'a;

    fn ports(&self, settings: Settings) -> &PortSet {
        if settings.has(Settings::DOWNSTREAM) { &self.downstream } else { &self.upstream }
    }

    fn image(&self) -> Option<&[ImageNode]> {
        Some(self.nodes)
    }

    fn overlay(&self) -> Option<&[ImageNode]> {
        self.overlay
    }

    fn is_bypassed(&self, group: u16) -> bool {
        self.bypassed.contains(&0) || self.bypassed.contains(&group)
    }

    /// Counts nothing: a question is not traffic.
    fn record(&self, _direction: Direction, _outcome: Outcome, _bytes: usize) {}
}

/// The set of `ports`, with one bit for each port.
#[must_use]
pub fn port_set(ports: &[u16]) -> Box<PortSet> {
    let mut set = Box::new([0; PORTS / 8]);
    for port in ports {
        set[usize::from(port >> 3)] |= 1 << (port & 7);
    }
    set
}
