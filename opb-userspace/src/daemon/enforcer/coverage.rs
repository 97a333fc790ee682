//! Coverage of interfaces: which programs are attached, which the kernel refused, when to retry,
//! and what something else detached. Any process with the rights can detach a program and the
//! kernel notifies nobody, so the daemon checks the hooks every second.

use std::{
    io,
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use tracing::{error, info, warn};

use super::fault::Fault;
use crate::{
    api::status::{InterfaceStatus, Subject, Trouble},
    daemon::{changed::Changed, interfaces::Plan},
    errors::one_line,
    kernel::{self, AttachError, Attached, Kernel, Repair, Wanted},
    node::Config,
};

/// The pause before a refused program is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The interfaces that the node file wants covered, and how far they are.
pub(super) struct Coverage {
    plan: Plan,
    covered: Vec<(Wanted, Attached)>,
    uncovered: Vec<Uncovered>,
    /// Refused programs are tried again from then on.
    retry_at: Instant,
    /// How often a program was found off its hook.
    detachments: u64,
    pins: Fault<PinsGone>,
    list: Fault<Unlisted>,
    hooks: Fault<Unchecked>,
}

/// A program that is not where it should be.
#[derive(Debug, PartialEq, Eq)]
struct Uncovered {
    wanted: Wanted,
    cause: String,
}

/// Which programs to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Missing,
}

/// Whether the kernel may hold programs that no plan wants any more.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leftovers {
    Possible,
    None,
}

#[derive(Debug, thiserror::Error)]
#[error("the pins are gone, and the filter ends with the daemon")]
struct PinsGone(#[source] kernel::Error);

#[derive(Debug, thiserror::Error)]
#[error("interfaces cannot be listed")]
struct Unlisted(#[source] io::Error);

#[derive(Debug, thiserror::Error)]
#[error("cannot check that the programs are on their hooks")]
struct Unchecked(#[source] kernel::Error);

impl Coverage {
    pub(super) fn new() -> Self {
        Self {
            plan: Plan::default(),
            covered: Vec::new(),
            uncovered: Vec::new(),
            retry_at: Instant::now(),
            detachments: 0,
            pins: Fault::default(),
            list: Fault::default(),
            hooks: Fault::default(),
        }
    }

    /// Attaches the programs that `config` wants. `rejects`: some group answers with resets.
    pub(super) fn cover(
        &mut self,
        which: Which,
        config: &Config,
        rejects: bool,
        kernel: &mut Kernel,
    ) -> Changed {
        let pins = match kernel.repair() {
            Ok(Repair::NotNeeded) => self.pins.clear(),
            Ok(Repair::Done) => {
                warn!("the pins were gone, and are there again");
                self.pins.clear() | Changed::Yes
            }
            // A program loaded now would find no maps, or foreign ones.
            Err(error) => return self.pins.raise(PinsGone(error)),
        };
        let plan = match Plan::current(config, rejects) {
            Ok(plan) => plan,
            Err(error) => return pins | self.list.raise(Unlisted(error)),
        };
        let settled = pins | self.list.clear();
        if !self.is_due(&plan, which, Instant::now()) {
            return settled;
        }
        let leftovers = self.follow(plan, which);
        let open = self.open();
        let results = kernel.attach(&open);
        self.record(open.into_iter().zip(results), Instant::now());
        if which == Which::All {
            // Present interfaces come first: they must not wait for programs of interfaces that may
            // come.
            kernel.preload(&Plan::rules(config));
        }
        // After attaching, so that an interface whose hook has changed always has a program.
        if leftovers == Leftovers::Possible {
            match kernel.detach_unwanted(&self.plan.wanted) {
                Ok(removed) => removed.iter().for_each(|what| info!("removed {what}")),
                Err(error) => warn!("unwanted programs cannot be removed: {}", one_line(&error)),
            }
        }
        Changed::Yes
    }

    /// Finds programs that something detached; packets pass unfiltered there. The next
    /// [`Self::cover`] attaches them again.
    pub(super) fn check_hooks(&mut self, kernel: &Kernel) -> Changed {
        match self.detached(kernel) {
            Ok(detached) if detached.is_empty() => self.hooks.clear(),
            Ok(detached) => {
                self.lose(detached, Instant::now());
                self.hooks.clear() | Changed::Yes
            }
            Err(error) => self.hooks.raise(Unchecked(error)),
        }
    }

    fn detached(&self, kernel: &Kernel) -> Result<Vec<(Wanted, Attached)>, kernel::Error> {
        let mut detached = Vec::new();
        for (wanted, attached) in &self.covered {
            // In this order: the kernel removes an interface's name before it detaches the
            // programs.
            if !kernel.is_in_place(wanted, attached.hook)? && exists(wanted) {
                detached.push((wanted.clone(), attached.clone()));
            }
        }
        Ok(detached)
    }

    fn is_due(&self, plan: &Plan, which: Which, now: Instant) -> bool {
        let retries = !self.uncovered.is_empty() && now >= self.retry_at;
        which == Which::All || *plan != self.plan || retries
    }

    /// Adopts a plan, and forgets attachments that it does not want or that must be made again.
    fn follow(&mut self, plan: Plan, which: Which) -> Leftovers {
        for missing in plan.missing.iter().filter(|name| !self.plan.missing.contains(name)) {
            warn!("interface {missing} does not exist");
        }
        let drops_some = self.plan.wanted.iter().any(|wanted| !plan.wanted.contains(wanted));
        self.plan = plan;
        self.covered.retain(|(wanted, attached)| {
            let has_same_link = self.plan.links.get(&wanted.index) == Some(&Ok(attached.link));
            which == Which::Missing && has_same_link && self.plan.wanted.contains(wanted)
        });
        if drops_some || which == Which::All { Leftovers::Possible } else { Leftovers::None }
    }

    /// Programs that the plan wants and that are not attached.
    fn open(&self) -> Vec<Wanted> {
        let is_covered =
            |wanted: &&Wanted| self.covered.iter().any(|(covered, _)| covered == *wanted);
        self.plan.wanted.iter().filter(|wanted| !is_covered(wanted)).cloned().collect()
    }

    /// Takes over the results of attaching everything that was [`Self::open`].
    fn record(
        &mut self,
        results: impl Iterator<Item = (Wanted, Result<Attached, AttachError>)>,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.uncovered);
        for (wanted, result) in results {
            match result {
                Ok(attached) => {
                    announce(&attached);
                    self.covered.push((wanted, attached));
                }
                Err(AttachError { wanted, error }) => {
                    let uncovered = Uncovered { wanted: *wanted, cause: one_line(&error) };
                    if !before.contains(&uncovered) {
                        error!("{}", uncovered.text());
                    }
                    self.uncovered.push(uncovered);
                }
            }
        }
        self.retry_at = now + RETRY;
        self.covered.sort_by(|(a, _), (b, _)| {
            (&a.interface, a.direction as u8).cmp(&(&b.interface, b.direction as u8))
        });
    }

    /// Takes detached programs as uncovered, to be attached at once.
    fn lose(&mut self, detached: Vec<(Wanted, Attached)>, now: Instant) {
        self.covered.retain(|(wanted, _)| detached.iter().all(|(lost, _)| lost != wanted));
        for (wanted, Attached { hook, .. }) in detached {
            self.detachments += 1;
            let cause = format!("something took the {} program off its hook", hook.name());
            self.uncovered.push(Uncovered { wanted, cause });
        }
        self.retry_at = now;
    }

    pub(super) fn detachments(&self) -> u64 {
        self.detachments
    }

    /// The attached programs.
    pub(super) fn status(&self) -> Vec<InterfaceStatus> {
        let status = |(wanted, attached): &(Wanted, Attached)| InterfaceStatus {
            name: attached.interface.clone(),
            role: super::status::name(&wanted.role),
            direction: attached.direction.to_owned(),
            hook: attached.hook.name().to_owned(),
            warning: attached.warning.clone(),
        };
        self.covered.iter().map(status).collect()
    }

    /// Programs on another hook than the node file prefers.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.covered.iter().filter_map(|(_, attached)| {
            Some(format!("{}: {}", attached.interface, attached.warning.as_ref()?))
        })
    }

    /// What concerns all interfaces.
    pub(super) fn faults(&self) -> impl Iterator<Item = Trouble> {
        let Self { list, hooks, pins, .. } = self;
        [
            list.trouble(Subject::Interfaces),
            hooks.trouble(Subject::Hooks),
            pins.trouble(Subject::Pins),
        ]
        .into_iter()
        .flatten()
    }

    /// Interfaces that are missing or not covered.
    pub(super) fn problems(&self) -> impl Iterator<Item = Trouble> {
        let missing = self.plan.missing.iter().map(|name| Trouble {
            interface: Some(name.clone()),
            ..Trouble::new(Subject::Interface, format!("interface {name} does not exist"))
        });
        let nothing = self.covered.is_empty().then(|| {
            let text = "no interface is covered: nothing is filtered".to_owned();
            Trouble::new(Subject::Interfaces, text)
        });
        missing.chain(self.uncovered.iter().map(Uncovered::trouble)).chain(nothing)
    }
}

impl Uncovered {
    fn text(&self) -> String {
        let Self { wanted: Wanted { interface, direction, .. }, cause } = self;
        format!("interface {interface} is not covered {}: {cause}", direction.name())
    }

    fn trouble(&self) -> Trouble {
        Trouble {
            interface: Some(self.wanted.interface.clone()),
            direction: Some(self.wanted.direction.name().to_owned()),
            cause: Some(self.cause.clone()),
            ..Trouble::new(Subject::Interface, self.text())
        }
    }
}

fn exists(wanted: &Wanted) -> bool {
    if_nametoindex(wanted.interface.as_str()).is_ok_and(|index| index == wanted.index)
}

fn announce(attached: &Attached) {
    let (interface, direction) = (&attached.interface, attached.direction);
    info!(interface, direction, hook = attached.hook.name(), "attached");
    if let Some(warning) = &attached.warning {
        warn!("{interface}: {warning}");
    }
}

#[cfg(test)]
#[path = "coverage_tests.rs"]
mod tests;
