//! The form of the status page.

use serde::Deserialize;

use crate::api::explain::{Flags, Query};

/// The error in the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FormError {
    Source,
    Destination,
    Port,
    /// One address is IPv4, the other IPv6.
    Families,
}

/// The fields of the form, as text: the page itself reports errors.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Form {
    #[serde(default)]
    pub(super) lang: String,
    #[serde(default)]
    pub(super) src: String,
    #[serde(default)]
    pub(super) dst: String,
    #[serde(default)]
    pub(super) dport: String,
}

impl Form {
    /// The question, or what is wrong with it.
    pub(super) fn query(&self) -> Result<Query, FormError> {
        let dport = Some(self.dport.trim()).filter(|port| !port.is_empty());
        Ok(Query {
            src: self.src.trim().parse().map_err(|_| FormError::Source)?,
            dst: self.dst.trim().parse().map_err(|_| FormError::Destination)?,
            sport: None,
            dport: dport.map(|port| port.parse().map_err(|_| FormError::Port)).transpose()?,
            flags: Flags::default(),
            direction: opb_common::outcome::Direction::Upstream,
            outer_src: None,
            outer_dst: None,
        })
    }
}
