//! `/v1/sessions`: the sessions that accounting reports.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::Prefix;

/// Parameters of `GET /v1/sessions`. All that are given must fit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nas: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The session that owns this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// One session. An element of `GET /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The network access server: NAS-Identifier, else its address.
    pub nas: Arc<str>,
    /// Acct-Session-Id.
    pub id: Arc<str>,
    pub state: SessionState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calling_station: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Arc<str>>,
    /// Absent where `exempt` is true, and where the rules of the policy files hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    #[serde(default)]
    pub exempt: bool,
    /// The addresses that the session owns.
    pub addresses: Vec<Prefix>,
    /// When it began, as far as its messages tell.
    pub began: Timestamp,
    /// When this node first heard of it.
    pub since: Timestamp,
    /// Seconds since the last message about it, or since the daemon started.
    pub silent: u64,
    /// Why its group does nothing, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    Live,
    /// Its NAS has not mentioned it since the daemon started.
    Unsure,
}

/// Body of `POST /v1/sessions/remove`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRemoval {
    pub nas: Arc<str>,
    pub id: Arc<str>,
}

/// Answer of `POST /v1/sessions/remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRemoved {
    /// 1, or 0 if there was no such session.
    pub removed: usize,
}

/// Sessions, in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsStatus {
    pub live: usize,
    /// Sessions that their NAS has not mentioned since the daemon started.
    pub unsure: usize,
    /// Sessions of groups that the policy does not have.
    pub orphaned: usize,
    /// Addresses and prefixes that sessions own.
    pub addresses: usize,
}
