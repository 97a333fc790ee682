//! The filter on several interfaces of a namespace at once, until it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use opb_common::outcome::Direction;
use opb_userspace::{
    image::GroupIds,
    kernel::{self, Hook as Effective, Kernel, Wanted},
    node::{Hook, Role},
};

use crate::{
    attached::stands_on,
    bpffs::Bpffs,
    netns::Netns,
    programs::{bypass, compile, wanted},
};

/// An interface and the rule that is enforced on it.
pub type Place = (&'static str, Role, Direction);

/// Programs on the interfaces. Dropping it detaches them.
pub struct Filter {
    gateway: Netns,
    bpffs: Bpffs,
    hook: Hook,
    places: Vec<Place>,
    unknown_drop: bool,
}

impl Filter {
    pub fn on(
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

    /// Replaces the policy.
    pub fn apply(&self, policy: &str) -> Result<()> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        let image = compile(policy, &GroupIds::default(), generation)?;
        let pins = self.bpffs.path().join("opb");
        self.gateway.enter(|| {
            let mut kernel = Kernel::open(&pins, None)?;
            kernel.publish(&image)?;
            bypass(&kernel, &image)?;
            let all = self
                .places
                .iter()
                .map(|&(interface, role, direction)| {
                    Ok(Wanted {
                        index: if_nametoindex(interface)?,
                        unknown_drop: self.unknown_drop,
                        ..wanted(interface, role, direction, self.hook)
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            for (wanted, attached) in all.iter().zip(kernel.attach(&all)) {
                let attached = attached.map_err(|refused| refused.error)?;
                // A fallback to another hook would test the wrong one.
                ensure!(attached.warning.is_none(), "{attached:?}");
                ensure!(fits(wanted, attached.hook), "{attached:?}");
                stands_on(&self.gateway, &attached.interface, attached.hook.name())?;
            }
            Ok(())
        })
    }

    /// Detaches and reports a failure, which `Drop` cannot.
    pub fn remove(self) -> Result<()> {
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

/// Whether it is the wanted hook: egress has no XDP, and old kernels have no TCX.
fn fits(wanted: &Wanted, got: Effective) -> bool {
    match wanted.hook {
        Hook::Auto => true,
        // Egress has no XDP.
        Hook::Xdp | Hook::XdpGeneric if !wanted.is_ingress() => {
            matches!(got, Effective::Tcx | Effective::Clsact)
        }
        Hook::Xdp => got == Effective::Xdp,
        Hook::XdpGeneric => got == Effective::XdpGeneric,
        Hook::Tc => matches!(got, Effective::Tcx | Effective::Clsact),
        Hook::Clsact => got == Effective::Clsact,
    }
}
