//! A line with the filter on it, as the daemon puts it there.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use nix::net::if_::if_nametoindex;
use opb_common::{ABI_VERSION, outcome::Direction};
use opb_lab::{
    attached::stands_on,
    bpffs::Bpffs,
    line::{ACCESS, Ends, Line, UPLINK},
    release,
    slots::filled,
};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{Attached, Hook as Effective, Kernel, Wanted},
    node::{Hook, Role},
    policy::Policy,
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
    pub(crate) kernel: Kernel,
    pub(crate) line: Line,
    slots: GroupIds,
    // Last, so that it goes when nobody has anything open in it.
    bpffs: Bpffs,
}

/// Packets by group, direction, verdict and reason.
pub(crate) type Counts = BTreeMap<String, u64>;

impl Gate {
    /// The line, and the policy in force; no program yet.
    pub(crate) fn with(policy: &str) -> Result<Self> {
        let line = Line::lay()?;
        let bpffs = Bpffs::mount()?;
        let image = compile(policy, &GroupIds::default(), 1)?;
        let pins = bpffs.path().join("opb");
        let mut kernel = Kernel::open(&pins, None)?;
        kernel.publish(&image)?;
        let slots = image.slots().clone();
        Ok(Self { ends: line.open()?, kernel, line, slots, bpffs })
    }

    /// How many of the slots for what is behind the first block of an image are in use.
    pub(crate) fn rests(&self) -> Result<usize> {
        let pin = self.bpffs.path().join(format!("opb/v{ABI_VERSION}/rest"));
        Ok(filled(&pin)?.len())
    }

    /// Attaches one program, and fails unless it is on the hook that was asked for.
    pub(crate) fn attach(
        &mut self,
        role: Role,
        direction: Direction,
        (hook, effective): (Hook, Effective),
    ) -> Result<()> {
        self.attach_with(role, direction, (hook, effective), false)
    }

    pub(crate) fn attach_with(
        &mut self,
        role: Role,
        direction: Direction,
        (hook, effective): (Hook, Effective),
        unknown_drop: bool,
    ) -> Result<()> {
        let Self { kernel, line, .. } = self;
        let interface = match role {
            Role::Subscriber => ACCESS,
            Role::Core => UPLINK,
        };
        let Attached { hook, .. } = line.gateway.enter(|| {
            let index = if_nametoindex(interface)?;
            let interface = interface.to_owned();
            let wanted = Wanted { interface, index, role, direction, hook, unknown_drop };
            let result = kernel.attach(&[wanted]).pop();
            let result = result.ok_or_else(|| anyhow!("no answer"))?;
            result.map_err(|refused| anyhow!("{:?}", refused.error))
        })?;
        let effective = match effective {
            Effective::Tcx if !release::has_tcx()? => Effective::Clsact,
            other => other,
        };
        anyhow::ensure!(hook == effective, "on {hook:?} instead of {effective:?}");
        // What the kernel says of it counts.
        stands_on(&line.gateway, interface, hook.name())?;
        Ok(())
    }

    pub(crate) fn detach(&mut self) -> Result<()> {
        let Self { kernel, line, .. } = self;
        line.gateway.enter(|| Ok(kernel.detach_unwanted(&[])?))?;
        Ok(())
    }

    /// What has been counted so far: `group direction verdict reason`, with `-` for no group.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let rows = self.kernel.counters(&self.slots);
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

/// What has been counted between two readings.
pub(crate) fn moved(before: &Counts, after: &Counts) -> Counts {
    let new =
        after.iter().map(|(key, packets)| (key.clone(), packets - before.get(key).unwrap_or(&0)));
    new.filter(|(_, packets)| *packets > 0).collect()
}

pub(crate) fn compile(policy: &str, slots: &GroupIds, generation: u64) -> Result<Image> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    std::fs::write(&file, policy)?;
    let policy = Policy::load(&[file]).map_err(|found| anyhow!("{found:?}"))?;
    Ok(Image::compile(&policy, slots, generation, jiff::Timestamp::now())?)
}
