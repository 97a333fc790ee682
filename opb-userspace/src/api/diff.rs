//! The differences between two policies: `GET /v1/diff` and `opb diff --json`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::policy::{Action, Downstream, Matching};

/// A range of subscriber addresses that the two policies treat differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    #[serde(flatten)]
    pub range: Range,
    pub old: Treatment,
    pub new: Treatment,
    /// Addresses that are relays of the new group but not of the old one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays_gained: Vec<Range>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays_lost: Vec<Range>,
}

/// Addresses from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// The treatment of a subscriber's mail to servers that are not relays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "treatment", rename_all = "lowercase")]
pub enum Treatment {
    /// In no group: passes, unless the interface says otherwise.
    Unknown,
    Exempt,
    Group {
        group: String,
        action: Action,
        #[serde(rename = "match")]
        matching: Matching,
        downstream: Downstream,
        ports: Vec<u16>,
    },
}

/// Endpoints of softwires in only one of the two policies. The verdict on packets in a tunnel to
/// them depends on another address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints_gained: Vec<Range>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints_lost: Vec<Range>,
}
