//! What could make the filter blind, or wrong, on this system: findings from what the node file wants and what the
//! kernel says ([`Inspection`]). It judges and explains; it changes nothing.

mod flow_tables;
mod interfaces;
mod redirects;
mod system;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    api::status::Status,
    compiled::Compiled,
    daemon::interfaces::Plan,
    image::GroupIds,
    kernel::{Error, Inspection},
    node::{Config, PolicySource},
    policy::{Action, Downstream, Matching},
};

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub level: Level,
    /// Interfaces, files, or parts of the system; sorted.
    pub places: BTreeSet<String>,
    pub seen: String,
    pub consequence: String,
    pub action: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Packets are not judged as the files say, or may come not to be.
    Problem,
    /// Harmless under these files, and worth knowing.
    Note,
}

/// What is looked at, in this order.
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
}

impl Check {
    pub const ALL: [Self; 10] = [
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
    ];

    /// As `--accept` and JSON write it.
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
        }
    }
}

/// Looks at everything. `daemon` is the status of the one that runs, or why none answers.
pub fn examine(config: &Config, daemon: Result<&Status, &str>) -> Result<Vec<Finding>, Error> {
    let process = daemon.map_or_else(|_| std::process::id(), |status| status.pid);
    let inspection = Inspection::take(&config.pins, process)?;
    let plan = Plan::current(config).map_err(Error::call("to list interfaces"))?;
    let PolicySource::Path(path) = &config.policy;
    let policy = Compiled::load(path.clone(), &GroupIds::default(), 1);
    let doctor = Doctor {
        config,
        daemon,
        wishes: Wishes::of(policy.as_ref().ok()),
        inspection: &inspection,
        plan: &plan,
    };
    let mut found = Findings::default();
    doctor.files(&policy, &mut found);
    doctor.system(policy.as_ref().ok(), &mut found);
    doctor.daemon(&mut found);
    doctor.interfaces(&mut found)?;
    doctor.redirects(&mut found);
    doctor.flow_tables(&mut found);
    let mut found = found.0;
    found.sort_by_key(|finding| (finding.level, finding.check));
    Ok(found)
}

/// Those that say the same of several places are one.
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

/// What the policy wants that not every packet path can give.
#[derive(Clone, Copy)]
struct Wishes {
    /// Some group answers the subscriber.
    resets: bool,
    /// Some group judges packets that follow the first of a connection.
    later_packets: bool,
}

impl Wishes {
    /// Of a policy that cannot be read, everything is to be expected.
    fn of(policy: Option<&Compiled>) -> Self {
        let Some(Compiled { policy, .. }) = policy else {
            return Self { resets: true, later_packets: true };
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
    wishes: Wishes,
    inspection: &'a Inspection,
    plan: &'a Plan,
}
