//! The part of the daemon that blocks: files, compiling, the kernel. One thing after the other.

mod actor;
mod build;
mod changes;
mod delta;
mod hooks;
mod reload;
mod slots;
mod store;
mod trial;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use opb_common::{ABI_VERSION, image::NodeRef, outcome::MAX_GROUPS, settings::Settings};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::delta::Delta;
pub(super) use self::{
    changes::{ChangeError, Waiting},
    reload::{Asked, Next},
};
use super::{
    Error,
    files::{Stamps, Watch},
    interfaces::Plan,
    reader::Loaded,
};
use crate::api::status::{Subject, Trouble};
use crate::api::{
    counters::By, counters::CounterLine, entries::Who, explain::Explanation, explain::Query,
    reload::Problem, reload::ReloadOutcome, reload::Trigger, status::Fill, status::GroupStatus,
    status::InterfaceStatus, status::LastReload, status::OverlayStatus, status::PolicyStatus,
    status::State, status::Status,
};
use crate::{
    compiled::{Compiled, LoadError, RunTime, hex},
    errors::one_line,
    explain::{QueryError, explain},
    image::GroupIds,
    kernel::{self, Attached, CounterRow, Kernel, Live, Logs, Refused, Wanted},
    node::{Addresses, Config, EventLog, LogLevel, Observe},
    policy::{Group, Policy},
    relays::{Hosts, resolver::Task},
    subscribers::{Entries, Trial},
    telemetry::{Sample, actions::Action},
};

/// How long an interface that refuses a program is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// Holds the kernel's state and what it was made from.
pub(super) struct Enforcer {
    config: Config,
    kernel: Kernel,
    /// What the files said when they were last valid.
    files: Arc<Policy>,
    entries: Entries,
    hosts: Hosts,
    /// Hosts that have changed since somebody looked, and what they stand for now.
    host_news: BTreeMap<String, Vec<IpAddr>>,
    /// Who asked for what is being done.
    actor: Option<Arc<Who>>,
    /// What was asked for since somebody looked.
    actions: Vec<Action>,
    /// What files, entries and hosts make together.
    compiled: Compiled,
    delta: Delta,
    trial: Option<trial::Trial>,
    watch: Watch,
    plan: Plan,
    covered: Vec<(Wanted, Attached)>,
    uncovered: Vec<(Wanted, String)>,
    retry: Instant,
    /// Not before then the store is opened again.
    recover_after: Option<Instant>,
    /// How often a program was found off its hook.
    detachments: u64,
    /// What is wrong beyond single interfaces, until it is right again.
    troubles: BTreeMap<Subject, String>,
    since: Timestamp,
    last_reload: LastReload,
    channels: Channels,
}

/// Where what happens is made known.
pub(super) struct Channels {
    pub(super) status: watch::Sender<Option<Status>>,
    /// Debug lines of the programs, for whoever has a runtime to read them on.
    pub(super) logs: mpsc::UnboundedSender<Logs>,
    /// Which relay hosts there are to resolve.
    pub(super) hosts: watch::Sender<Task>,
}

impl Enforcer {
    /// Puts the policy that was loaded in force, over what an earlier daemon may have left enforcing.
    pub(super) fn start(loaded: Loaded, channels: Channels) -> Result<Self, Error> {
        let Loaded { config, files, watch, .. } = loaded;
        let now = Timestamp::now();
        let mut entries = Entries::open(&config.state)?;
        if entries.is_trial_over() {
            match entries.roll_back(Timestamp::MAX) {
                Ok(None) => {}
                Ok(Some(places)) => error!("{}", trial::taken_back(places.len())),
                // It is tried again each second, and the state says so.
                Err(error) => warn!("an import is not taken back: {}", one_line(&error)),
            }
        }
        if let Some(Trial { until, .. }) = entries.trial() {
            warn!("an import is on trial: it is taken back at {until:.0} unless it is confirmed");
        }
        let expired = entries.lapse(now).len();
        if expired > 0 {
            info!("{expired} run-time entries have run out meanwhile");
        }
        let hosts = Hosts::new(entries.store().hosts()?, config.dns.hold.duration());
        let mut kernel = Kernel::open(&config.pins, level(config.log))?;
        kernel.set_observation(observation_settings(&config.observe));
        let live = kernel.live()?;
        let (slots, generation) = match &live {
            Some(Live { image, .. }) => (image.slots().clone(), image.generation()),
            None => (GroupIds::default(), 0),
        };
        let run_time = RunTime { entries: entries.map(), hosts: &hosts };
        let before = slots;
        let slots = slots::with_room(&before, &files, &files, &entries);
        let compiled = Compiled::new(&files, run_time, &slots, generation + 1, now)
            .map_err(LoadError::from)?;
        if live.is_none() {
            // Whatever was counted, nobody knows for whom.
            kernel.reset_counters(&(1..MAX_GROUPS as u16).collect::<Vec<_>>());
            kernel.publish(&compiled.image)?;
        }
        let mut enforcer = Self {
            config,
            kernel,
            last_reload: LastReload {
                time: now,
                trigger: Trigger::Start,
                success: true,
                by: None,
                outcome: applied(&compiled),
            },
            files,
            entries,
            hosts,
            host_news: BTreeMap::new(),
            actor: None,
            actions: Vec::new(),
            compiled,
            delta: Delta::default(),
            trial: None,
            watch,
            plan: Plan::default(),
            covered: Vec::new(),
            uncovered: Vec::new(),
            retry: Instant::now(),
            recover_after: None,
            detachments: 0,
            troubles: BTreeMap::new(),
            since: now,
            channels,
        };
        enforcer.warn_of_policy();
        enforcer.cover(Which::All);
        if let Some(Live { image, .. }) = live {
            let (generation, digest) = (image.generation(), hex(image.digest()));
            info!(generation, digest, "adopted what an earlier daemon left enforcing");
            // Only now: the programs of that daemon do not know of ports that the new policy may add.
            enforcer.kernel.publish(&enforcer.compiled.image)?;
            let reused = enforcer.compiled.image.slots().reused(&before).map(|(slot, _)| slot);
            enforcer.kernel.reset_counters(&reused.collect::<Vec<_>>());
        }
        enforcer.ask_for_hosts();
        enforcer.look_after_store();
        enforcer.report();
        Ok(enforcer)
    }

    /// Follows what changes by itself: interfaces, and whatever runs out.
    pub(super) fn resync(&mut self) {
        let changes = [
            self.look_after_store(),
            self.roll_back(),
            self.expire(),
            self.release(),
            self.merge(),
            self.miss_detached(),
            self.cover(Which::Missing),
        ];
        if changes.contains(&true) {
            self.report();
        }
    }

    /// Files to look at for changes, if somebody should.
    pub(super) fn watched(&self) -> Option<Vec<PathBuf>> {
        (self.config.watch && self.trial.is_none()).then(|| self.watch.paths().to_vec())
    }

    /// Whether the files have to be read again, as they look now.
    pub(super) fn have_changed(&mut self, stamps: Stamps) -> bool {
        self.config.watch && self.trial.is_none() && self.watch.has_changed(stamps)
    }

    /// Follows interfaces that come and go.
    pub(super) fn follow_interfaces(&mut self) {
        if self.cover(Which::Missing) {
            self.report();
        }
    }

    /// The verdict of the image that is in force: the copy that was compared with the kernel's before it was frozen there and
    /// put in force. Reading the kernel's again would take the longer, the larger the policy is.
    pub(super) fn explain(&self, query: &Query) -> Result<Explanation, QueryError> {
        let Compiled { policy, image, .. } = &self.compiled;
        let mut explained = explain(query, image, self.delta.overlay(), policy, Timestamp::now())?;
        self.name_entry(&mut explained, query.outer_src.is_some());
        Ok(explained)
    }

    pub(super) fn counters(&self, by: By) -> Vec<CounterLine> {
        let slots = self.compiled.image.slots();
        match by {
            By::Group => self.kernel.counters(slots),
            By::Interface => self.kernel.interface_counters(),
        }
        .into_iter()
        .map(|row| counter_line(by, row, slots))
        .collect()
    }

    /// What was counted, the names of the groups, and what is new of relay hosts.
    pub(super) fn sample(&mut self) -> Sample {
        let slots = self.slots();
        Sample {
            by_group: self.kernel.counters(&slots),
            by_interface: self.kernel.interface_counters(),
            slots,
            hosts: std::mem::take(&mut self.host_news),
            actions: std::mem::take(&mut self.actions),
        }
    }

    pub(super) fn slots(&self) -> GroupIds {
        self.compiled.image.slots().clone()
    }

    /// The reading end of events and talkers.
    pub(super) fn observations(&self) -> Result<kernel::Observations, kernel::Error> {
        self.kernel.observations()
    }

    /// Attaches what the node file wants: everything again, or what is not covered. Whether anything has changed.
    fn cover(&mut self, which: Which) -> bool {
        let repaired = match self.kernel.repair() {
            Ok(repaired) => repaired,
            // A program that is loaded now would find no maps, or others.
            Err(error) => {
                let error = one_line(&error);
                let trouble =
                    format!("the pins are gone, and the filter ends with the daemon: {error}");
                return self.complain(Subject::Pins, trouble);
            }
        };
        if repaired {
            warn!("the pins were gone, and are there again");
        }
        let settled = self.troubles.remove(&Subject::Pins).is_some() || repaired;
        let all = which == Which::All;
        let plan = match Plan::current(&self.config) {
            Ok(plan) => plan,
            Err(error) => {
                let trouble = format!("interfaces cannot be listed: {error}");
                return self.complain(Subject::Interfaces, trouble);
            }
        };
        let settled = self.troubles.remove(&Subject::Interfaces).is_some() || settled;
        let retry = !self.uncovered.is_empty() && Instant::now() >= self.retry;
        if plan == self.plan && !all && !retry {
            return settled;
        }
        for missing in plan.missing.iter().filter(|name| !self.plan.missing.contains(name)) {
            warn!("interface {missing} does not exist");
        }
        let lost = self.plan.wanted.iter().any(|wanted| !plan.wanted.contains(wanted));
        self.plan = plan;
        let before = std::mem::take(&mut self.uncovered);
        self.covered.retain(|(wanted, attached)| {
            let is_same = self.plan.links.get(&wanted.index) == Some(&Ok(attached.link));
            !all && is_same && self.plan.wanted.contains(wanted)
        });
        let is_covered =
            |wanted: &Wanted| self.covered.iter().any(|(covered, _)| covered == wanted);
        let open: Vec<_> =
            (self.plan.wanted.iter()).filter(|wanted| !is_covered(wanted)).cloned().collect();
        for (wanted, result) in open.iter().zip(self.kernel.attach(&open)) {
            match result {
                Ok(attached) => {
                    announce(&attached);
                    self.covered.push((wanted.clone(), attached));
                }
                Err(Refused { wanted, error }) => {
                    let uncovered = (wanted, one_line(&error));
                    if !before.contains(&uncovered) {
                        error!("{}", not_covered(&uncovered));
                    }
                    self.uncovered.push(uncovered);
                }
            }
        }
        if all {
            // What is here comes first: it must not lack what is kept for interfaces that may come.
            self.kernel.preload(&Plan::rules(&self.config));
        }
        self.forward_logs();
        self.retry = Instant::now() + RETRY;
        self.covered.sort_by(|(a, _), (b, _)| {
            (&a.interface, a.direction as u8).cmp(&(&b.interface, b.direction as u8))
        });
        // Only now, so that an interface whose hook has changed is never without a program.
        if all || lost {
            match self.kernel.detach_unwanted(&self.plan.wanted) {
                Ok(removed) => removed.iter().for_each(|what| info!("removed {what}")),
                Err(error) => {
                    warn!("what is not wanted any more cannot be removed: {}", one_line(&error))
                }
            }
        }
        true
    }

    /// Hands on the debug lines of programs that have just been loaded.
    fn forward_logs(&mut self) {
        match self.kernel.logs() {
            Ok(logs) => logs.into_iter().for_each(|log| drop(self.channels.logs.send(log))),
            Err(error) => warn!("{}", one_line(&error)),
        }
    }

    /// Remembers what is wrong, and says it once.
    fn complain(&mut self, subject: Subject, trouble: String) -> bool {
        if self.troubles.get(&subject) == Some(&trouble) {
            return false;
        }
        error!("{trouble}");
        self.troubles.insert(subject, trouble);
        true
    }

    fn warn_of_policy(&self) {
        self.compiled.policy.warnings.iter().for_each(|warning| warn!("{warning}"));
    }

    /// Makes the state known, and logs where it changes.
    fn report(&self) {
        let status = self.describe();
        let before = self.channels.status.borrow().as_ref().map(|status| status.state);
        if before != Some(status.state) {
            let PolicyStatus { generation, digest, .. } = &status.policy;
            match status.state {
                State::Enforcing => info!(generation, digest, "enforcing"),
                State::Degraded => {
                    let problems: Vec<_> =
                        status.problems.iter().map(|it| it.text.as_str()).collect();
                    error!(generation, digest, "degraded: {}", problems.join("; "));
                }
            }
        }
        self.channels.status.send_replace(Some(status));
    }

    fn describe(&self) -> Status {
        let problems = self.problems();
        let Compiled { policy, image, .. } = &self.compiled;
        let fall_backs = self.covered.iter().filter_map(|(_, attached)| {
            Some(format!("{}: {}", attached.interface, attached.warning.as_ref()?))
        });
        Status {
            state: if problems.is_empty() { State::Enforcing } else { State::Degraded },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION.into(),
            pid: std::process::id(),
            since: self.since,
            policy: PolicyStatus {
                generation: image.generation(),
                digest: hex(image.digest()),
                image_bytes: image.bytes(),
                nodes: Fill { used: image.nodes().len(), max: NodeRef::MAX_NODES },
                overlay: OverlayStatus {
                    prefixes: self.delta.len(),
                    revision: self.delta.revision(),
                },
                groups: policy.groups.iter().map(group).collect(),
            },
            last_reload: self.last_reload.clone(),
            interfaces: self.covered.iter().map(interface).collect(),
            detachments: self.detachments,
            entries: self.entries_status(),
            store: self.store_status(),
            hosts: self.hosts.status(policy),
            // Not known here: whoever shows a status adds them.
            alarms: Vec::new(),
            checks: Vec::new(),
            trial: self.on_trial(),
            problems,
            warnings: (policy.warnings.iter().map(ToString::to_string))
                .chain(fall_backs)
                .chain(self.run_time_warnings())
                .collect(),
        }
    }

    fn problems(&self) -> Vec<Trouble> {
        let troubles = self.troubles.iter();
        let mut problems: Vec<_> =
            troubles.map(|(&about, text)| Trouble::new(about, text.clone())).collect();
        problems.extend(self.plan.missing.iter().map(|name| Trouble {
            interface: Some(name.to_string()),
            ..Trouble::new(Subject::Interface, format!("interface {name} does not exist"))
        }));
        problems.extend(self.uncovered.iter().map(|uncovered| {
            let (wanted, error) = uncovered;
            Trouble {
                interface: Some(wanted.interface.to_string()),
                direction: Some(wanted.direction.name().to_owned()),
                cause: Some(error.clone()),
                ..Trouble::new(Subject::Interface, not_covered(uncovered))
            }
        }));
        if self.covered.is_empty() {
            let text = "no interface is covered: nothing is filtered".to_owned();
            problems.push(Trouble::new(Subject::Interfaces, text));
        }
        problems
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Missing,
}

/// Names the settings that a running daemon cannot change.
fn refuse_restart_only(old: &Config, new: &Config) -> Result<(), Vec<Problem>> {
    let changed = [
        ("state", old.state != new.state),
        ("control", old.control != new.control),
        ("http", old.http != new.http),
        ("http-names", old.http_names != new.http_names),
        ("pins", old.pins != new.pins),
        ("log", old.log != new.log),
        ("events", old.observe.events != new.observe.events),
        ("privacy", privacy(&old.observe) != privacy(&new.observe)),
        ("suspect", old.observe.suspect != new.observe.suspect),
    ];
    let refused: Vec<_> = (changed.iter().filter(|(_, changed)| *changed))
        .map(|(key, _)| format!("`{key}` cannot change while the daemon runs: restart it").into())
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

fn privacy(observe: &Observe) -> (Addresses, Duration) {
    (observe.addresses, observe.retain)
}

/// What the programs write down.
fn observation_settings(observe: &Observe) -> Settings {
    match (&observe.events, observe.addresses) {
        (EventLog::Off, _) => Settings::default(),
        (_, Addresses::None) => Settings::OBSERVE.with(Settings::NO_ADDRESSES),
        _ => Settings::OBSERVE,
    }
}

fn applied(compiled: &Compiled) -> ReloadOutcome {
    let image = &compiled.image;
    ReloadOutcome::Applied { generation: image.generation(), digest: hex(image.digest()) }
}

fn counter_line(by: By, row: CounterRow, slots: &GroupIds) -> CounterLine {
    let CounterRow { of, direction, verdict, reason, packets, bytes } = row;
    let since = of.as_deref().filter(|_| by == By::Group).and_then(|name| slots.since(name));
    let of = Some(of.unwrap_or_else(|| "-".to_owned()));
    let (group, interface) = match by {
        By::Group => (of, None),
        By::Interface => (None, of),
    };
    CounterLine { group, interface, direction, verdict, reason, packets, bytes, since }
}

fn announce(attached: &Attached) {
    let (interface, direction) = (&attached.interface, attached.direction);
    info!(interface, direction, hook = attached.hook.name(), "attached");
    if let Some(warning) = &attached.warning {
        warn!("{interface}: {warning}");
    }
}

fn not_covered((wanted, error): &(Wanted, String)) -> String {
    format!("interface {} is not covered {}: {error}", wanted.interface, wanted.direction.name())
}

fn level(level: LogLevel) -> Option<tracing::Level> {
    match level {
        LogLevel::Off => None,
        LogLevel::Error => Some(tracing::Level::ERROR),
        LogLevel::Warn => Some(tracing::Level::WARN),
        LogLevel::Info => Some(tracing::Level::INFO),
        LogLevel::Debug => Some(tracing::Level::DEBUG),
        LogLevel::Trace => Some(tracing::Level::TRACE),
    }
}

fn interface((wanted, attached): &(Wanted, Attached)) -> InterfaceStatus {
    InterfaceStatus {
        name: attached.interface.clone(),
        role: name(&wanted.role),
        direction: attached.direction.to_owned(),
        hook: attached.hook.name().to_owned(),
        warning: attached.warning.clone(),
    }
}

fn group(group: &Group) -> GroupStatus {
    // Sorted by family first. A status is made after every change: nobody counts a million for it.
    let prefixes_v4 = group.prefixes.partition_point(|prefix| !prefix.is_ipv6());
    GroupStatus {
        name: group.name.clone(),
        action: name(&group.action),
        matching: name(&group.matching),
        downstream: name(&group.downstream),
        ports: group.ports.clone(),
        prefixes_v4,
        prefixes_v6: group.prefixes.len() - prefixes_v4,
    }
}

/// The name under which a plain enum is serialised.
fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
