//! `GET /v1/status`: the policy in force, the covered interfaces, and all problems.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    bypass::BypassLine,
    entries::Who,
    reload::{ReloadOutcome, Trigger, UnconfirmedStatus},
    sessions::SessionsStatus,
};

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub version: String,
    pub abi: u32,
    pub pid: u32,
    pub since: Timestamp,
    pub policy: PolicyStatus,
    /// What the files are, compared with the policy and the settings in force.
    #[serde(default)]
    pub files: FilesState,
    pub last_reload: LastReload,
    pub interfaces: Vec<InterfaceStatus>,
    /// How often the daemon has put a program back that something took off its hook.
    #[serde(default)]
    pub detachments: u64,
    #[serde(default)]
    pub entries: EntriesStatus,
    #[serde(default)]
    pub sessions: SessionsStatus,
    #[serde(default)]
    pub store: StoreStatus,
    /// Relay hosts and their addresses.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    /// The receivers of reports of suspects.
    #[serde(default)]
    pub alarms: Vec<AlarmStatus>,
    /// Whether the parts of the daemon work, at the time of the request.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The commit that is rolled back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<UnconfirmedStatus>,
    /// The emergency bypasses.
    #[serde(default)]
    pub bypasses: Vec<BypassLine>,
    /// Why the state is not `enforcing`.
    pub problems: Vec<Trouble>,
    pub warnings: Vec<String>,
}

/// One reason why the state is not `enforcing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub about: Subject,
    /// For an interface without its program: its name, the direction of the program, and the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// All of it in a sentence.
    pub text: String,
}

impl Trouble {
    #[must_use]
    pub fn new(about: Subject, text: String) -> Self {
        Self { about, interface: None, direction: None, cause: None, text }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The subject of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The interfaces cannot be listed, or none is covered.
    Interfaces,
    /// The hooks cannot be checked.
    Hooks,
    Pins,
    /// The store takes no changes.
    Store,
    /// The store has lost changes.
    Loss,
    /// The store will soon take no changes.
    Disk,
    /// The policy in force lacks changes.
    Image,
    /// A commit that was not confirmed in time is still in force.
    Rollback,
    /// The files still have a policy that was rolled back.
    Files,
    /// The policy in force is not on the disk: a restart would enforce another one.
    Commits,
    /// An emergency bypass is active.
    Bypass,
    /// An interface does not exist, or has no program.
    Interface,
    /// A group reaches no relay: no host of its relay sets has an address.
    Relays,
    /// A part of the daemon does not work.
    Check,
}

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// Seconds since its last sign of life, if it gives any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// The subject of the problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All wanted interfaces are covered.
    Enforcing,
    /// See the problems.
    Degraded,
}

/// The files, compared with what is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesState {
    /// Not compared yet.
    #[default]
    Unknown,
    Same,
    /// A reload would change something.
    Differ,
    /// A reload would be rejected.
    Invalid,
}

impl FilesState {
    pub const NAMES: [(Self, &str); 4] = [
        (Self::Unknown, "unknown"),
        (Self::Same, "same"),
        (Self::Differ, "differ"),
        (Self::Invalid, "invalid"),
    ];
}

/// The policy in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub generation: u64,
    pub digest: String,
    /// The number of the commit that put it in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    pub image_bytes: usize,
    pub nodes: Fill,
    #[serde(default)]
    pub overlay: OverlayStatus,
    pub groups: Vec<GroupStatus>,
}

/// Changes by run-time entries that are in force beside the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatus {
    pub prefixes: usize,
    /// The number of overlays of this generation.
    pub revision: u64,
}

/// Run-time entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesStatus {
    pub count: usize,
    /// Entries of groups that the policy does not have.
    pub orphaned: usize,
}

/// The store of the run-time entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Whether it takes changes.
    pub writable: bool,
    /// Whether it has lost acknowledged changes and the loss is not cleared.
    pub lost: bool,
}

impl Default for StoreStatus {
    fn default() -> Self {
        Self { writable: true, lost: false }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fill {
    pub used: usize,
    pub max: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    pub action: String,
    #[serde(rename = "match")]
    pub matching: String,
    pub downstream: String,
    pub ports: Vec<u16>,
    pub prefixes_v4: usize,
    pub prefixes_v6: usize,
}

/// One program on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub role: String,
    pub direction: String,
    /// The actual hook, which may not be the one that the node file prefers.
    pub hook: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The last attempt to put a policy in force, including the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastReload {
    pub time: Timestamp,
    pub trigger: Trigger,
    /// False if the files differ from the policy in force.
    pub success: bool,
    /// The user who requested it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
    #[serde(flatten)]
    pub outcome: ReloadOutcome,
}

/// A receiver of reports of suspects, and the results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmStatus {
    /// `command` or `webhook`.
    pub to: String,
    /// Path or URL, without parts that may be secret.
    pub name: String,
    /// Reports that wait or are being delivered.
    pub waiting: u64,
    /// Successful deliveries since the daemon started.
    pub delivered: u64,
    /// Failed deliveries.
    pub failed: u64,
    /// Dropped: the queue was full.
    pub dropped: u64,
}

/// One host for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    pub host: String,
    #[serde(default)]
    pub state: HostState,
    /// The addresses that are allowed because of it.
    pub addresses: Vec<IpAddr>,
    /// The last good answer since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Timestamp>,
    /// When the addresses last changed since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Timestamp>,
    /// Why there is no newer answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Addresses in answers that were refused because the host has too many.
    #[serde(default)]
    pub refused: u64,
}

impl HostStatus {
    /// What is wrong with it, if anything is.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self { host, state, error, .. } = self;
        let error = error.as_deref().unwrap_or("no answer yet");
        match state {
            HostState::Resolved => None,
            HostState::Kept => {
                Some(format!("relay host {host} keeps its last good answer: {error}"))
            }
            HostState::Unasked | HostState::Unresolved => {
                Some(format!("relay host {host} has no address yet: {error}"))
            }
        }
    }
}

/// What the name servers say about a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// There is no answer yet, and no error.
    #[default]
    Unasked,
    /// It never had an address, and the last question failed.
    Unresolved,
    /// The last question failed: it keeps the addresses of the last good answer.
    Kept,
    /// It has addresses.
    Resolved,
}
