//! `GET /v1/status`: what the daemon enforces, where, and what is wrong.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    entries::Who,
    reload::{ReloadOutcome, TrialStatus, Trigger},
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
    pub last_reload: LastReload,
    pub interfaces: Vec<InterfaceStatus>,
    /// How often something took a program off its hook since the daemon started, and the daemon put it back.
    #[serde(default)]
    pub detachments: u64,
    #[serde(default)]
    pub entries: EntriesStatus,
    #[serde(default)]
    pub store: StoreStatus,
    /// Relay hosts, and what they stand for.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    /// Who is told of suspects.
    #[serde(default)]
    pub alarms: Vec<AlarmStatus>,
    /// Whether the parts of the daemon do their work, as of when the status was asked for.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What is taken back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
    /// What keeps the state from being `enforcing`.
    pub problems: Vec<Trouble>,
    pub warnings: Vec<String>,
}

/// Something that keeps the state from being `enforcing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub about: Subject,
    /// Of an interface without its program: its name, the direction of the program, and why it is not there.
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

/// What a trouble is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The list of interfaces cannot be read, or has none to cover.
    Interfaces,
    /// Nobody knows whether the programs are on their hooks.
    Hooks,
    Pins,
    /// The store takes no changes.
    Store,
    /// The store has lost changes.
    Loss,
    /// The store will soon take no changes.
    Disk,
    /// The published image is not what it should be.
    Image,
    Trial,
    /// One interface is not there, or has no program.
    Interface,
    /// A part of the daemon does not do its work.
    Check,
}

/// One part of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    /// Seconds since it last showed that it works, if it does so by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every interface that should be covered is.
    Enforcing,
    /// Something is not: see the problems.
    Degraded,
}

/// The policy in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub generation: u64,
    pub digest: String,
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
    /// Counts the publications of such changes since the generation began.
    pub revision: u64,
}

/// Run-time entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesStatus {
    pub count: usize,
    /// Those of groups that the policy does not have.
    pub orphaned: usize,
}

/// What keeps the run-time entries over a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Whether it takes changes.
    pub writable: bool,
    /// Whether it has lost changes that were acknowledged, and nobody has taken note of that.
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
    /// Where the program really is, which may not be where the node file wanted it.
    pub hook: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// The last attempt to put a policy in force, the one at the start included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastReload {
    pub time: Timestamp,
    pub trigger: Trigger,
    /// False if the files say something else than what is in force.
    pub success: bool,
    /// Who asked for it, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
    #[serde(flatten)]
    pub outcome: ReloadOutcome,
}

/// Whom suspects are reported to, and what became of the reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmStatus {
    /// `command` or `webhook`.
    pub to: String,
    /// Path or URL, without what may be secret.
    pub name: String,
    /// Suspects that wait, or are being told of.
    pub waiting: u64,
    /// Those told of since the daemon started.
    pub told: u64,
    /// Those that it was tried to tell of.
    pub failed: u64,
    /// Those for whom there was no room among the waiting.
    pub left_out: u64,
}

/// One host for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    pub host: String,
    /// What is allowed because of it.
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
    /// Addresses in answers that were not taken, because the host has too many.
    #[serde(default)]
    pub refused: u64,
}
