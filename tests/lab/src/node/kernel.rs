//! What the kernel has of a node: asked of the kernel, not of the program under test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags};
use opb_common::ABI_VERSION;
use serde_json::Value;

use super::Node;
use crate::{
    attached::{bpftool, loaded},
    bpffs::Bpffs,
    process::{self, wait_until},
    slots::filled,
};

/// Link and program by the name of the link's pin. A filter on clsact has no link: 0.
pub type Links = BTreeMap<String, (u64, u64)>;

/// Ids of what a node has in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub links: BTreeSet<u64>,
    pub programs: BTreeSet<u64>,
    pub maps: BTreeSet<u64>,
}

impl Node {
    /// Everything that is pinned, relative to the node's bpffs.
    pub fn pinned(&self) -> Result<Vec<String>> {
        self.bpffs.pins()
    }

    /// Unmounts the bpffs and with it every pin, as a careless administrator might.
    pub fn unmount(&self) -> Result<()> {
        Ok(nix::mount::umount2(self.mount(), MntFlags::MNT_DETACH)?)
    }

    pub fn remount(&self) -> Result<()> {
        let flags = MsFlags::empty();
        Ok(nix::mount::mount(Some("bpf"), self.mount(), Some("bpf"), flags, None::<&str>)?)
    }

    /// The pinned links. Fails if there are none.
    pub fn links(&self) -> Result<Links> {
        let mut links = Links::new();
        for pin in self.pinned()?.iter().filter(|pin| pin.starts_with("opb/v1/links/")) {
            let path = self.mount().join(pin);
            let kind = if pin.contains("clsact") { "prog" } else { "link" };
            let shown = bpftool(&[kind, "show", "pinned", &path.display().to_string()])?;
            let number = |key| shown.get(key).and_then(Value::as_u64);
            let id = number("id").context("an id")?;
            let name = pin.rsplit('/').next().unwrap_or(pin).to_owned();
            let ids = match kind {
                "prog" => (0, id),
                _ => (id, number("prog_id").context("a program")?),
            };
            links.insert(name, ids);
        }
        ensure!(!links.is_empty(), "nothing is attached");
        Ok(links)
    }

    /// Pins every link once more, where the daemon does not look. They stay until the value is dropped.
    pub fn hold_links(&self) -> Result<Bpffs> {
        let elsewhere = Bpffs::mount()?;
        for (name, (link, _)) in self.links()? {
            let pin = elsewhere.path().join(name);
            let (link, pin) = (link.to_string(), pin.display().to_string());
            process::check(Command::new("bpftool").args(["link", "pin", "id", &link, &pin]))?;
        }
        Ok(elsewhere)
    }

    /// The pinned links, their programs, and the maps of these.
    pub fn objects(&self) -> Result<Objects> {
        let mut objects = Objects::default();
        for (link, program) in self.links()?.into_values() {
            objects.links.extend((link != 0).then_some(link));
            objects.programs.insert(program);
        }
        for program in &objects.programs {
            let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
            let maps = shown.get("map_ids").and_then(Value::as_array).into_iter().flatten();
            objects.maps.extend(maps.filter_map(Value::as_u64));
        }
        ensure!(!objects.maps.is_empty(), "programs without maps");
        Ok(objects)
    }

    /// `opb detach`. Fails if a pin is left.
    pub fn detach(&self) -> Result<()> {
        self.ask(&["detach"])?;
        let left = self.pinned()?;
        ensure!(left.is_empty(), "still pinned after opb detach: {left:?}");
        ensure!(!self.pins().exists(), "the pin directory is still there");
        Ok(())
    }

    /// Bytes that the maps of the policy occupy in the kernel.
    pub fn image_bytes(&self) -> Result<u64> {
        let pins = self.pins().join(format!("v{ABI_VERSION}"));
        let mut sum = 0;
        for map in filled(&pins.join("policy"))?.into_iter().chain(filled(&pins.join("tail"))?) {
            let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let info = fs::read_to_string(info)?;
            let locked = info.lines().find_map(|line| line.strip_prefix("memlock:"));
            let locked = locked.context("the kernel does not show the size of a map")?;
            sum += locked.trim().parse::<u64>()?;
        }
        Ok(sum)
    }
}

impl Objects {
    /// Waits until the kernel has freed all of them.
    pub fn wait_freed(&self) -> Result<()> {
        for (kind, ids) in [("link", &self.links), ("prog", &self.programs), ("map", &self.maps)] {
            // The kernel frees an object a moment after its last reference is gone.
            let mut left = Vec::new();
            let freed = wait_until(Duration::from_secs(10), || {
                left = loaded(kind)?.intersection(ids).copied().collect::<Vec<_>>();
                Ok(left.is_empty().then_some(()))
            })?;
            freed.with_context(|| format!("bpftool {kind} show: {left:?} are left"))?;
        }
        Ok(())
    }
}
