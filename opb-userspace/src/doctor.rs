//! Finds what could make the filter miss or misread packets on this machine. It compares the node
//! file with the state of the kernel ([`Inspection`]) and changes nothing.

mod flow_tables;
mod interfaces;
mod redirects;
mod system;
mod traffic;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::{counters::CounterLine, status::Status},
    compiled::Compiled,
    daemon::interfaces::Plan,
    image::GroupIds,
    kernel::{Error, Inspection},
    node::{Config, PolicySource},
    policy::{Action, Downstream, Matching},
};

/// One finding, with its consequence and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub level: Level,
    /// Interfaces, files or parts of the system, sorted.
    pub places: BTreeSet<String>,
    pub seen: String,
    pub consequence: String,
    pub action: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The filter does not enforce the files, or may stop doing so.
    Problem,
    /// Harmless with these files, but worth knowing.
    Note,
}

/// The checks, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    Files,
    Pins,
    Kernel,
    Memory,
    Daemon,
    Interface,
    Foreign,
    RxVlan,
    Lro,
    FlowTable,
    Relays,
}

impl Check {
    pub const ALL: [Self; 11] = [
        Self::Files,
        Self::Pins,
        Self::Kernel,
        Self::Memory,
        Self::Daemon,
        Self::Interface,
        Self::Foreign,
        Self::RxVlan,
        Self::Lro,
        Self::FlowTable,
        Self::Relays,
    ];

    /// Returns the name in `--accept` and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Pins => "pins",
            Self::Kernel => "kernel",
            Self::Memory => "memory",
            Self::Daemon => "daemon",
            Self::Interface => "interface",
            Self::Foreign => "foreign",
            Self::RxVlan => "rx-vlan",
            Self::Lro => "lro",
            Self::FlowTable => "flow-table",
            Self::Relays => "relays",
        }
    }
}

/// Runs all checks. `daemon` is the status of the running daemon, or why none answers, and `counters`
/// are its rows by interface. Returns the findings, problems first. Fails if the kernel cannot be inspected.
pub fn examine(
    config: &Config,
    daemon: Result<&Status, &str>,
    counters: &[CounterLine],
) -> Result<Vec<Finding>, Error> {
    let process = daemon.map_or_else(|_| std::process::id(), |status| status.pid);
    let inspection = Inspection::take(&config.pins, process)?;
    let plan = Plan::current(config).map_err(Error::call("to list interfaces"))?;
    let PolicySource::Path(path) = &config.policy;
    let policy = Compiled::load(path.clone(), &GroupIds::default(), 1);
    let doctor = Doctor {
        config,
        daemon,
        needs: Needs::of(policy.as_ref().ok(), daemon.ok()),
        inspection: &inspection,
        plan: &plan,
    };
    let mut found = Findings::default();
    doctor.files(&policy, &mut found);
    doctor.system(policy.as_ref().ok(), &mut found);
    doctor.daemon(&mut found);
    doctor.traffic(counters, Timestamp::now(), &mut found);
    doctor.interfaces(&mut found)?;
    doctor.redirects(&mut found);
    doctor.flow_tables(&mut found);
    let mut found = found.0;
    found.sort_by_key(|finding| (finding.level, finding.check));
    Ok(found)
}

/// The findings so far. The same finding in several places is one finding.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        (check, level): (Check, Level),
        place: impl Into<String>,
        seen: impl Into<String>,
        consequence: impl Into<String>,
        action: impl Into<String>,
    ) {
        let (seen, consequence, action) = (seen.into(), consequence.into(), action.into());
        let same = |known: &&mut Finding| {
            (known.check, known.level) == (check, level)
                && [&known.seen, &known.consequence, &known.action]
                    == [&seen, &consequence, &action]
        };
        if let Some(known) = self.0.iter_mut().find(same) {
            known.places.insert(place.into());
            return;
        }
        let places = BTreeSet::from([place.into()]);
        self.0.push(Finding { check, level, places, seen, consequence, action });
    }
}

/// Requirements of the policy that not every packet path can meet.
#[derive(Clone, Copy)]
struct Needs {
    /// Some group answers with TCP resets.
    resets: bool,
    /// Some group inspects packets after the first of a connection.
    later_packets: bool,
}

impl Needs {
    /// Returns the requirements of `policy`. If it cannot be read, those of the policy in force: a
    /// reload would be rejected.
    fn of(policy: Option<&Compiled>, daemon: Option<&Status>) -> Self {
        let Some(Compiled { policy, .. }) = policy else {
            let mut groups = daemon.iter().flat_map(|status| &status.policy.groups);
            return Self {
                resets: groups.clone().any(|group| group.action == "reject"),
                later_packets: groups
                    .any(|group| group.matching == "any" || group.downstream != "off"),
            };
        };
        Self {
            resets: policy.groups.iter().any(|group| group.action == Action::Reject),
            later_packets: policy.groups.iter().any(|group| {
                group.matching == Matching::Any || group.downstream != Downstream::Off
            }),
        }
    }
}

struct Doctor<'a> {
    config: &'a Config,
    daemon: Result<&'a Status, &'a str>,
    needs: Needs,
    inspection: &'a Inspection,
    plan: &'a Plan,
}
