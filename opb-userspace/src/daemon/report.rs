//! What the daemon says of itself, in the shapes that the control API and `--json` show.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    compiled::hex,
    diff::{Change, Endpoints},
    image::Slots,
    kernel::CounterRow,
    policy::Diagnostic,
    relays::HostStatus,
    subscribers::Who,
    telemetry::alarms::AlarmStatus,
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
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
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

/// What is on trial. One thing at a time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    pub of: TrialOf,
    pub until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialOf {
    /// What a reload put in force.
    Policy,
    /// Run-time entries.
    Import,
}

impl TrialOf {
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "a policy",
            Self::Import => "an import",
        }
    }
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
    pub meaningless: usize,
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

/// Why a policy was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Start,
    Signal,
    Request,
    /// The files have changed.
    Files,
    /// An exemption or a run-time entry ran out.
    Expiry,
    /// Nobody confirmed a reload or an import.
    Rollback,
}

/// What came of a reload. Answer of `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// The files say what is in force already.
    Unchanged,
    /// What the files say is in force.
    Applied { generation: u64, digest: String },
    /// What was in force still is.
    Rejected { errors: Vec<Problem> },
}

impl ReloadOutcome {
    pub(super) fn applied(generation: u64, digest: [u8; 16]) -> Self {
        Self::Applied { generation, digest: hex(digest) }
    }

    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

/// What a reload would change. Answer of `GET /v1/diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// Of the files.
    pub digest: String,
    /// Whether the node file wants other interfaces.
    pub interfaces: bool,
    pub changes: Vec<Change>,
    #[serde(flatten)]
    pub endpoints: Endpoints,
}

/// Answer of `POST /v1/confirm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// False if nothing was on trial.
    pub confirmed: bool,
    /// What was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<TrialOf>,
    /// In force.
    pub generation: u64,
}

/// Something that is wrong, for people (`text`) and, if it has a place in a file, for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    pub text: String,
    /// The members of a diagnostic: `file`, `line`, `column`, `source`, `message`, …
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, details: Map::new() }
    }
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let details = match serde_json::to_value(diagnostic) {
            Ok(Value::Object(details)) => details,
            _ => Map::new(),
        };
        Self { text: diagnostic.to_string(), details }
    }
}

/// What packets are counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Group,
    Interface,
}

/// One row of `GET /v1/counters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterLine {
    /// `-` for no group. Absent where packets are counted by interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `-` for those without counters of their own. Absent where packets are counted by group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub direction: String,
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
    /// When the counters of the group were at zero, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl CounterLine {
    pub(super) fn new(by: By, row: CounterRow, slots: &Slots) -> Self {
        let since =
            row.of.as_deref().filter(|_| by == By::Group).and_then(|name| slots.since(name));
        let of = row.of.unwrap_or_else(|| "-".to_owned());
        let (group, interface) = match by {
            By::Group => (Some(of), None),
            By::Interface => (None, Some(of)),
        };
        Self {
            since,
            group,
            interface,
            direction: row.direction.to_owned(),
            verdict: row.verdict.to_owned(),
            reason: row.reason.to_owned(),
            packets: row.packets,
            bytes: row.bytes,
        }
    }

    /// The group's name, or the interface's.
    #[must_use]
    pub fn of(&self) -> &str {
        self.group.as_deref().or(self.interface.as_deref()).unwrap_or("-")
    }
}
