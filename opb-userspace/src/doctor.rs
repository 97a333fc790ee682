//! What could make the filter blind, or wrong, on this system: findings from what the node file wants and what the
//! kernel says ([`Survey`]). It judges and explains; it changes nothing.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    compiled::{Compiled, LoadError},
    daemon::{interfaces::Plan, report},
    errors::one_line,
    image::Slots,
    kernel::{Device, Error, FlowTable, Hook, Need, Place, Survey, Wanted},
    node::{self, Config, NamePattern, PolicySource},
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
pub fn examine(
    config: &Config,
    daemon: Result<&report::Status, &str>,
) -> Result<Vec<Finding>, Error> {
    let process = daemon.map_or_else(|_| std::process::id(), |status| status.pid);
    let survey = Survey::take(&config.pins, process)?;
    let plan = Plan::current(config).map_err(Error::call("to list interfaces"))?;
    let PolicySource::Path(path) = &config.policy;
    let policy = Compiled::load(path.clone(), &Slots::default(), 1);
    let doctor = Doctor {
        config,
        daemon,
        wishes: Wishes::of(policy.as_ref().ok()),
        survey: &survey,
        plan: &plan,
    };
    let mut found = Findings::default();
    doctor.files(&policy, &mut found);
    doctor.system(policy.as_ref().ok(), &mut found);
    doctor.daemon(&mut found);
    doctor.interfaces(&mut found)?;
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
    daemon: Result<&'a report::Status, &'a str>,
    wishes: Wishes,
    survey: &'a Survey,
    plan: &'a Plan,
}

use Level::{Note, Problem};

impl Doctor<'_> {
    fn files(&self, policy: &Result<Compiled, LoadError>, found: &mut Findings) {
        let PolicySource::Path(path) = &self.config.policy;
        if let Err(error) = policy {
            found.add(
                (Check::Files, Problem),
                path.display().to_string(),
                format!("the policy is not valid: {}", one_line(error)),
                "a daemon that starts refuses it, and a reload is rejected; what is in force stays",
                "`opb check` names every error with its place",
            );
        }
    }

    /// What does not depend on an interface.
    fn system(&self, policy: Option<&Compiled>, found: &mut Findings) {
        let Survey { release, lacks, pins, memory, .. } = self.survey;
        if let Some(error) = pins {
            found.add(
                (Check::Pins, Problem),
                self.config.pins.display().to_string(),
                one_line(error),
                "a daemon does not start; one that runs holds the filter, which would end with it",
                "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot), or name a directory on one as `pins`",
            );
        }
        for need in lacks {
            let (level, consequence, action) = lacking(*need);
            let seen = format!("{} not there", need.name());
            found.add(
                (Check::Kernel, level),
                format!("Linux {release}"),
                seen,
                consequence,
                action,
            );
        }
        // Old and new image are there together during a swap.
        let image = policy.map_or(0, |compiled| compiled.image.bytes() as u64);
        let wanted = 2 * image + BOOKS;
        let limits = [
            memory.locked.map(|bytes| ("RLIMIT_MEMLOCK".to_owned(), bytes)),
            memory.group.as_ref().map(|(path, left)| (path.display().to_string(), *left)),
        ];
        for (place, left) in limits.into_iter().flatten().filter(|(_, left)| *left < wanted) {
            found.add(
                (Check::Memory, Problem),
                place,
                format!("{left} bytes are left for maps in the kernel"),
                format!(
                    "a policy of this size needs up to {wanted} bytes while it is replaced: the kernel may \
                     refuse it, and what is in force stays"
                ),
                "raise the limit: `LimitMEMLOCK=` before Linux 5.11, `MemoryMax=` since, in the service's unit",
            );
        }
    }

    fn daemon(&self, found: &mut Findings) {
        let check = |level| (Check::Daemon, level);
        let status = match self.daemon {
            Ok(status) => status,
            Err(why) => {
                let consequence = if self.survey.ours.is_empty() {
                    "nothing is filtered"
                } else {
                    "the kernel goes on enforcing the last policy; expiry, new interfaces, relay hosts and \
                     changes stand still"
                };
                let place = self.config.control.display().to_string();
                return found.add(check(Problem), place, why, consequence, "start it: `opb run`");
            }
        };
        let place = || format!("process {}", status.pid);
        if !status.last_reload.success {
            found.add(
                check(Problem),
                place(),
                "the last reload was rejected",
                "the files say something else than what is in force",
                "`opb check` names the errors; then `opb reload`",
            );
        }
        // Those of interfaces are found below, with what the kernel says.
        let ours = |text: &&String| !text.starts_with("interface ");
        for text in status.problems.iter().filter(ours) {
            let consequence = "the daemon calls itself degraded";
            found.add(check(Problem), place(), text, consequence, "see its log");
        }
        for text in &status.warnings {
            let consequence = "the daemon warns of it, and enforces";
            found.add(check(Note), place(), text, consequence, "none at once");
        }
    }

    fn interfaces(&self, found: &mut Findings) -> Result<(), Error> {
        for name in &self.plan.missing {
            found.add(
                (Check::Interface, Problem),
                name,
                "the node file names it, and it does not exist",
                "what comes in by another name is not filtered",
                "correct the name, or bring the interface up; a pattern such as ppp* may match nothing",
            );
        }
        for interface in &self.config.interfaces {
            let NamePattern::Glob(pattern) = &interface.name else { continue };
            if !self.survey.devices.iter().any(|device| pattern.matches(&device.name)) {
                found.add(
                    (Check::Interface, Note),
                    pattern.as_str(),
                    "no interface has such a name now",
                    "those that come are covered when they come",
                    "none, if there are no sessions",
                );
            }
        }
        for wanted in &self.plan.wanted {
            let place = self.survey.place(wanted);
            if place.is_none() {
                self.uncovered(wanted, found);
            }
            self.foreign(wanted, place, found)?;
            if let Some(device) = self.survey.device(wanted.index) {
                self.offloads(wanted, place, device, found);
            }
        }
        Ok(())
    }

    fn uncovered(&self, wanted: &Wanted, found: &mut Findings) {
        let direction = wanted.direction.name();
        let name = &wanted.interface;
        let pinned = self
            .survey
            .ours
            .iter()
            .find(|place| (place.index, place.direction) == (wanted.index, wanted.direction));
        let of_it = format!("interface {name} is not covered {direction}: ");
        let reason = self
            .daemon
            .ok()
            .and_then(|status| status.problems.iter().find_map(|text| text.strip_prefix(&of_it)));
        let (seen, action) = match (pinned, reason) {
            (_, Some(reason)) => (reason.to_owned(), "take away what the reason names"),
            (Some(Place { hook, .. }), None) => (
                format!(
                    "somebody took the {direction} program of opb off its {} hook",
                    hook.name()
                ),
                "find out who (`bpftool link`, `tc filter`); a restart of the daemon puts it on again",
            ),
            (None, None) => (
                format!("it has no {direction} program of opb"),
                "start the daemon, or see its log",
            ),
        };
        let consequence = format!("{direction} mail passes it unfiltered");
        found.add((Check::Interface, Problem), name, seen, consequence, action);
    }

    fn foreign(
        &self,
        wanted: &Wanted,
        place: Option<&Place>,
        found: &mut Findings,
    ) -> Result<(), Error> {
        for foreign in self.survey.foreign(wanted)? {
            let seen = format!("{} of somebody else stands on {}", foreign.what, foreign.hook);
            let xdp = matches!(wanted.hook, node::Hook::Xdp | node::Hook::XdpGeneric);
            let (consequence, action) = match place {
                None if xdp => (
                    "opb finds the hook taken and does not replace it: the interface is not filtered",
                    "`hook: tc` coexists, or take the program off",
                ),
                _ => (
                    "it sees packets before opb does: what it accepts, redirects or sends by itself is not judged",
                    "if it only counts or drops, it is harmless: --accept foreign; otherwise take it off",
                ),
            };
            found.add((Check::Foreign, Problem), &wanted.interface, seen, consequence, action);
        }
        Ok(())
    }

    fn offloads(
        &self,
        wanted: &Wanted,
        place: Option<&Place>,
        device: &Device,
        found: &mut Findings,
    ) {
        let name = &wanted.interface;
        if !wanted.comes_in() {
            return;
        }
        // Devices without a driver's features (ppp) have none.
        let Ok(offloads) = device.offloads() else { return };
        let hook = place.map(|place| place.hook);
        let on_xdp = matches!(hook, Some(Hook::Xdp | Hook::XdpGeneric));
        if on_xdp && offloads.rx_vlan {
            let vlans = self.survey.devices.iter().filter(|other| {
                other.below == Some(device.index) && other.kind.as_deref() == Some("vlan")
            });
            let seen = match vlans.count() {
                0 => "rx-vlan-offload is on: the outermost VLAN tag is taken out of the frame before XDP"
                    .to_owned(),
                count => format!(
                    "rx-vlan-offload is on, with {count} VLAN devices above: the outermost tag is taken out of \
                     the frame before XDP"
                ),
            };
            // Generic XDP sends the socket buffer back, which keeps the tag beside the frame.
            let (level, consequence) = if self.wishes.resets && hook == Some(Hook::Xdp) {
                (
                    Problem,
                    "packets are judged rightly, but the resets of `action: reject` go back without the tag and \
                     do not arrive",
                )
            } else {
                (Note, "packets are judged rightly; one tag less counts towards the limit of eight")
            };
            let action = format!("ethtool -K {name} rxvlan off, or `hook: tc`");
            found.add((Check::RxVlan, level), name, seen, consequence, action);
        }
        if offloads.lro {
            let consequence = "the device merges packets before anybody sees them: they are judged and counted \
                               as one and cannot be forwarded as they came; many drivers refuse native XDP";
            let action = format!("ethtool -K {name} lro off");
            let seen = "large-receive-offload is on";
            found.add((Check::Lro, Problem), name, seen, consequence, action);
        }
        if offloads.gro_hw && hook != Some(Hook::Xdp) {
            let consequence =
                "packets are judged and counted as merged; a driver may refuse native XDP for it";
            let action = format!("ethtool -K {name} rx-gro-hw off");
            let seen = "rx-gro-hw is on";
            found.add((Check::Lro, Note), name, seen, consequence, action);
        }
    }

    /// Flows in a flow table leave the usual path after their first packets.
    fn flow_tables(&self, found: &mut Findings) {
        let names: BTreeSet<&str> =
            self.plan.wanted.iter().map(|wanted| wanted.interface.as_str()).collect();
        for table in &self.survey.flow_tables {
            for name in &names {
                let Some(how) = self.bypass(table, name) else { continue };
                let (level, consequence) = match (how, self.wishes.later_packets) {
                    (Bypass::None, _) => (
                        Note,
                        "nothing is missed: XDP and TC ingress come before the table, TC egress behind it",
                    ),
                    (_, false) => (
                        Note,
                        "packets of offloaded flows do not meet opb; the first of each connection does, and no \
                         group judges others. Counters are those of first packets",
                    ),
                    (_, true) => (
                        Problem,
                        "packets of offloaded flows do not meet opb: `match: any` and `downstream` miss what \
                         follows the first packets, and connections from before a change stay",
                    ),
                };
                let seen = match how {
                    Bypass::Hardware => "takes its flows into hardware (`flags offload`)",
                    Bypass::Above => {
                        "is on a device below, and forwards without the devices above it"
                    }
                    Bypass::None => "has it among its devices, in software",
                };
                let seen = format!("flow table {} of table {} {seen}", table.name, table.table);
                let action = match level {
                    Note => "none".to_owned(),
                    Problem => format!(
                        "filter on the devices of the table ({}), without `flags offload`; or keep TCP of the \
                         filtered ports out of it",
                        table.devices.join(", ")
                    ),
                };
                found.add((Check::FlowTable, level), *name, seen, consequence, action);
            }
        }
    }

    /// How flows of `table` pass the hooks of an interface; nothing if they have nothing to do with it.
    fn bypass(&self, table: &FlowTable, interface: &str) -> Option<Bypass> {
        if table.devices.iter().any(|device| device == interface) {
            return Some(if table.hardware { Bypass::Hardware } else { Bypass::None });
        }
        self.is_above(interface, &table.devices, 8).then_some(Bypass::Above)
    }

    /// Whether packets of `interface` travel through one of `devices` below it.
    fn is_above(&self, interface: &str, devices: &[String], depth: usize) -> bool {
        let all = &self.survey.devices;
        let Some(device) = all.iter().find(|device| device.name == interface) else { return false };
        // Nothing says on which device a PPPoE session is.
        if device.kind.as_deref() == Some("ppp") {
            return true;
        }
        let below = all.iter().filter(|other| {
            device.below == Some(other.index) && device.kind.as_deref() != Some("veth")
                || other.master == Some(device.index)
        });
        depth > 0
            && below.into_iter().any(|other| {
                devices.contains(&other.name) || self.is_above(&other.name, devices, depth - 1)
            })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bypass {
    None,
    Hardware,
    /// The table is on a device below.
    Above,
}

/// Bytes of maps beside the images: counters, events, talkers.
const BOOKS: u64 = 16 << 20;

fn lacking(need: Need) -> (Level, &'static str, &'static str) {
    const NEWER: &str = "a newer kernel: docs/compatibility.md says which are tested";
    match need {
        Need::XdpPrograms | Need::TcPrograms | Need::MapsOfMaps | Need::RingBuffers => {
            (Problem, "the programs do not load", NEWER)
        }
        Need::Tcx => (
            Note,
            "`hook: tc`, and all that goes out, is a filter on clsact: other tools can remove it, and the daemon \
             does not notice",
            NEWER,
        ),
        Need::Jit => (
            Problem,
            "programs are interpreted: every packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Need::Btf => (
            Note,
            "opb does without; bpftool shows less of its programs and maps",
            "a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}
