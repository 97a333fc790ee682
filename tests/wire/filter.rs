//! The filter on interfaces of a namespace, by the library that the daemon is made of.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use opb_common::outcome::Direction;
use opb_lab::{attached::stands_on, bpffs::Bpffs, netns::Netns};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{self, Hook as Effective, Kernel, Wanted},
    node::{Hook, Role},
    policy::Policy,
};

/// An interface and the rule that is enforced on it.
pub(crate) type Place = (&'static str, Role, Direction);

/// What is on the interfaces, until this value goes.
pub(crate) struct Filter {
    gateway: Netns,
    bpffs: Bpffs,
    hook: Hook,
    places: Vec<Place>,
    unknown_drop: bool,
}

impl Filter {
    pub(crate) fn on(
        gateway: &Netns,
        places: &[Place],
        hook: Hook,
        policy: &str,
        unknown_drop: bool,
    ) -> Result<Self> {
        let (gateway, bpffs, places) = (gateway.clone(), Bpffs::mount()?, places.to_vec());
        let filter = Self { gateway, bpffs, hook, places, unknown_drop };
        filter.apply(policy)?;
        Ok(filter)
    }

    /// Puts another policy in force.
    pub(crate) fn apply(&self, policy: &str) -> Result<()> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let image = image(policy, GENERATION.fetch_add(1, Ordering::Relaxed))?;
        let pins = self.bpffs.path().join("opb");
        self.gateway.enter(|| {
            let mut kernel = Kernel::open(&pins, None)?;
            kernel.publish(&image)?;
            let wanted = self
                .places
                .iter()
                .map(|&(interface, role, direction)| {
                    Ok(Wanted {
                        interface: interface.to_owned(),
                        index: if_nametoindex(interface)?,
                        role,
                        direction,
                        hook: self.hook,
                        unknown_drop: self.unknown_drop,
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            for (wanted, attached) in wanted.iter().zip(kernel.attach(&wanted)) {
                let attached = attached.map_err(|refused| refused.error)?;
                // No other hook than the one that the test is about.
                ensure!(attached.warning.is_none(), "{attached:?}");
                ensure!(fits(wanted, attached.hook), "{attached:?}");
                stands_on(&self.gateway, &attached.interface, attached.hook.name())?;
            }
            Ok(())
        })
    }

    /// Takes it off, and says so if that fails: `Drop` has to keep silent.
    pub(crate) fn remove(self) -> Result<()> {
        self.detach()
    }

    fn detach(&self) -> Result<()> {
        let pins = self.bpffs.path().join("opb");
        self.gateway.enter(|| kernel::detach(&pins).map(drop).context("cannot detach"))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}

/// Whether it is the hook that was asked for: what goes out has no XDP, and old kernels have no TCX.
fn fits(wanted: &Wanted, got: Effective) -> bool {
    match wanted.hook {
        Hook::Auto => true,
        // There is no XDP on the way out.
        Hook::Xdp | Hook::XdpGeneric if !wanted.is_ingress() => {
            matches!(got, Effective::Tcx | Effective::Clsact)
        }
        Hook::Xdp => got == Effective::Xdp,
        Hook::XdpGeneric => got == Effective::XdpGeneric,
        Hook::Tc => matches!(got, Effective::Tcx | Effective::Clsact),
        Hook::Clsact => got == Effective::Clsact,
    }
}

fn image(policy: &str, generation: u64) -> Result<Image> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.yaml");
    fs::write(&file, policy)?;
    let policy = Policy::load(&[file])?;
    Ok(Image::compile(&policy, &GroupIds::default(), generation, jiff::Timestamp::now())?)
}
