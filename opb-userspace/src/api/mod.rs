//! What goes over the wire: requests and answers of the control API, which are also the shapes of `--json`, of events in the journal
//! and of what commands and webhooks are told. Daemon and command line share these types; docs/openapi.yaml describes them, and the
//! tests compare every answer with it.

pub mod counters;
pub mod diff;
pub mod entries;
pub mod events;
pub mod explain;
pub mod reload;
pub mod status;

use serde::{Deserialize, Serialize};

/// Body of every answer that is neither a success nor a rejected reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    pub error: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}
