//! A line with the filter on it, as the daemon puts it there.

use std::collections::BTreeMap;

use anyhow::Result;
use opb_common::outcome::Direction;
use opb_lab::{
    line::{ACCESS, Ends, Line, UPLINK},
    programs::{Programs, wanted},
    release,
};
use opb_userspace::{
    kernel::{Hook as Effective, Wanted},
    node::{Hook, Role},
};

/// Hooks on the way in.
pub(crate) const INGRESS: [(Hook, Effective); 4] = [
    (Hook::Xdp, Effective::Xdp),
    (Hook::XdpGeneric, Effective::XdpGeneric),
    (Hook::Tc, Effective::Tcx),
    (Hook::Clsact, Effective::Clsact),
];
/// Hooks on the way out.
pub(crate) const EGRESS: [(Hook, Effective); 2] = [INGRESS[2], INGRESS[3]];

pub(crate) struct Gate {
    pub(crate) ends: Ends,
    pub(crate) programs: Programs,
    pub(crate) line: Line,
}

/// Packets by group, direction, verdict and reason.
pub(crate) type Counts = BTreeMap<String, u64>;

impl Gate {
    /// The line, and the policy in force; no program yet.
    pub(crate) fn with(policy: &str) -> Result<Self> {
        let (line, programs) = (Line::lay()?, Programs::new(policy)?);
        Ok(Self { ends: line.open()?, programs, line })
    }

    /// Attaches one program. Fails unless it is on the wanted hook.
    pub(crate) fn attach(
        &mut self,
        role: Role,
        direction: Direction,
        hook: (Hook, Effective),
    ) -> Result<()> {
        self.attach_with(role, direction, hook, false)
    }

    pub(crate) fn attach_with(
        &mut self,
        role: Role,
        direction: Direction,
        (hook, effective): (Hook, Effective),
        unknown_drop: bool,
    ) -> Result<()> {
        let interface = match role {
            Role::Subscriber => ACCESS,
            Role::Core => UPLINK,
        };
        let effective = match effective {
            Effective::Tcx if !release::has_tcx()? => Effective::Clsact,
            other => other,
        };
        let wanted = Wanted { unknown_drop, ..wanted(interface, role, direction, hook) };
        self.programs.attach(&self.line.gateway, wanted, effective)
    }

    pub(crate) fn detach(&mut self) -> Result<()> {
        self.programs.take_off(&self.line.gateway)
    }

    /// The counters: `group direction verdict reason`, with `-` for no group.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let rows = self.programs.counters()?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let group = row.of.as_deref().unwrap_or("-");
                let key = format!("{group} {} {} {}", row.direction, row.verdict, row.reason);
                (key, row.packets)
            })
            .collect())
    }
}

/// The difference of two readings.
pub(crate) fn moved(before: &Counts, after: &Counts) -> Counts {
    let new =
        after.iter().map(|(key, packets)| (key.clone(), packets - before.get(key).unwrap_or(&0)));
    new.filter(|(_, packets)| *packets > 0).collect()
}
