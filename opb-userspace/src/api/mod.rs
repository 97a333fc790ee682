//! Requests and answers of the control API. `--json`, events in the journal, and reports to
//! commands and webhooks have the same format. Daemon and command line share these types.
//! docs/openapi.yaml describes them, and the tests compare every answer with it.

pub mod bypass;
pub mod commits;
pub mod counters;
pub mod diff;
pub mod entries;
pub mod events;
pub mod explain;
pub mod reload;
pub mod sessions;
pub mod status;

use serde::{Deserialize, Serialize};

/// The body of every answer except successes and rejected reloads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    pub error: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}
