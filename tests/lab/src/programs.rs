//! The programs by the library that the daemon is made of: a policy in force in a bpffs of its own, and programs that are
//! attached one by one.

use std::{fs, num::NonZeroU32};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::net::if_::if_nametoindex;
use opb_common::{ABI_VERSION, outcome::Direction};
use opb_userspace::{
    api::{bypass::BypassRequest, entries::Who},
    image::{GroupIds, Image},
    kernel::{self, CounterRow, Hook as Effective, Kernel, Wanted},
    node::{Hook, Role},
    policy::Policy,
};

use crate::{attached::stands_on, bpffs::Bpffs, netns::Netns, packets, slots::filled};

/// The image of a policy, as the daemon compiles it.
pub fn compile(policy: &str, slots: &GroupIds, generation: u64) -> Result<Image> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    fs::write(&file, policy)?;
    let policy = Policy::load(&[file]).map_err(|errors| anyhow!("{errors}"))?;
    Ok(Image::compile(&policy, slots, generation, jiff::Timestamp::now())?)
}

/// A program for an interface, which [`Programs::attach`] looks up.
pub fn wanted(interface: &str, role: Role, direction: Direction, hook: Hook) -> Wanted {
    Wanted {
        interface: interface.to_owned(),
        index: 0,
        role,
        direction,
        hook,
        unknown_drop: false,
        loses_resets: false,
    }
}

/// Starts the bypass that rows of the packet table expect, if `image` has its group.
pub fn bypass(kernel: &Kernel, image: &Image) -> Result<()> {
    if image.group_ids().get(packets::BYPASSED).is_none() {
        return Ok(());
    }
    let request = BypassRequest {
        group: Some(packets::BYPASSED.to_owned()),
        seconds: NonZeroU32::new(3600).context("not zero")?,
        reason: "the packet table".to_owned(),
    };
    let who = Who { uid: 0, pid: None, user: None };
    kernel.bypasses().start(&request, image.group_ids(), &who)?;
    Ok(())
}

pub struct Programs {
    /// `None` stands for a daemon that was killed.
    pub kernel: Option<Kernel>,
    slots: GroupIds,
    // Last, so that it goes when nothing in it is open.
    pub bpffs: Bpffs,
}

impl Programs {
    /// The policy in force; no program on any interface.
    pub fn new(policy: &str) -> Result<Self> {
        let bpffs = Bpffs::mount()?;
        let image = compile(policy, &GroupIds::default(), 1)?;
        let mut kernel = Kernel::open(&bpffs.path().join("opb"), None)?;
        kernel.publish(&image)?;
        bypass(&kernel, &image)?;
        Ok(Self { kernel: Some(kernel), slots: image.group_ids().clone(), bpffs })
    }

    pub fn kernel(&mut self) -> Result<&mut Kernel> {
        self.kernel.as_mut().context("the filter has no process")
    }

    /// What a killed daemon leaves, and what the next one finds.
    pub fn restart(&mut self) -> Result<()> {
        self.kernel = None;
        self.kernel = Some(Kernel::open(&self.bpffs.path().join("opb"), None)?);
        Ok(())
    }

    /// Attaches one program. Fails unless the kernel shows it on the hook that is expected.
    pub fn attach(&mut self, gateway: &Netns, wanted: Wanted, effective: Effective) -> Result<()> {
        let kernel = self.kernel()?;
        let interface = wanted.interface.clone();
        let attached = gateway.enter(|| {
            let index = if_nametoindex(&*wanted.interface)?;
            match kernel.attach(&[Wanted { index, ..wanted }]).pop() {
                Some(Ok(attached)) => Ok(attached),
                Some(Err(refused)) => Err(anyhow!(refused.error)),
                None => bail!("no answer"),
            }
        })?;
        let (got, warning) = (attached.hook, attached.warning);
        ensure!(got == effective, "on {got:?} instead of {effective:?}: {warning:?}");
        stands_on(gateway, &interface, got.name())
    }

    /// Takes every program off.
    pub fn take_off(&mut self, gateway: &Netns) -> Result<()> {
        let kernel = self.kernel()?;
        gateway.enter(|| Ok(kernel.detach_unwanted(&[])?))?;
        Ok(())
    }

    /// Removes all that is in the kernel, as `opb detach` does.
    pub fn detach(mut self, gateway: &Netns) -> Result<()> {
        self.kernel = None;
        let pins = self.bpffs.path().join("opb");
        gateway.enter(|| Ok(kernel::detach(&pins)?))?;
        ensure!(self.bpffs.pins()?.is_empty(), "pins are left: {:?}", self.bpffs.pins()?);
        Ok(())
    }

    pub fn counters(&self) -> Result<Vec<CounterRow>> {
        let kernel = self.kernel.as_ref().context("the filter has no process")?;
        Ok(kernel.counters(&self.slots))
    }

    /// Packets that were dropped.
    pub fn denied(&self) -> Result<u64> {
        let rows = self.counters()?;
        Ok(rows.iter().filter(|row| row.verdict.name() == "drop").map(|row| row.packets).sum())
    }

    /// How many blocks beside the first one of each image are in use.
    pub fn tail_blocks(&self) -> Result<usize> {
        let pin = self.bpffs.path().join(format!("opb/v{ABI_VERSION}/tail"));
        Ok(filled(&pin)?.len())
    }
}
