//! A bpffs for one test, so that it sees neither the pins of other tests nor those of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::MsFlags;

use crate::workdir::Workdir;

/// Pins that the kernel makes in every new bpffs (CONFIG_BPF_PRELOAD).
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

#[derive(Debug)]
pub struct Bpffs {
    workdir: Workdir,
    mount: PathBuf,
}

impl Bpffs {
    pub fn mount() -> Result<Self> {
        let workdir = Workdir::new("bpffs")?;
        let mount = workdir.mount_point();
        fs::create_dir(&mount).context("cannot make the bpffs mount point")?;
        nix::mount::mount(Some("bpf"), &mount, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs at {}", mount.display()))?;
        Ok(Self { workdir, mount })
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// A directory for other files, removed together with the bpffs.
    pub fn directory(&self) -> &Path {
        self.workdir.path()
    }

    /// All pins but those of the kernel, relative to the mount.
    pub fn pins(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut pending = vec![self.mount.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                } else if let Ok(relative) = entry.path().strip_prefix(&self.mount) {
                    found.push(relative.display().to_string());
                }
            }
        }
        found.retain(|pin| !PRELOADED.contains(&pin.as_str()));
        found.sort();
        Ok(found)
    }

    /// Unmounts now and reports a failure, which `Drop` cannot.
    pub fn unmount(self) -> Result<()> {
        nix::mount::umount(&self.mount)
            .with_context(|| format!("cannot unmount {}", self.mount.display()))?;
        drop(self.workdir);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "root: cargo xtask test --lane kernel"]
    fn a_panic_leaves_nothing_mounted() -> Result<()> {
        let (say, hear) = std::sync::mpsc::channel();
        let panicked = std::thread::spawn(move || {
            let bpffs = Bpffs::mount().expect("root can mount a bpffs");
            fs::create_dir(bpffs.path().join("opb")).expect("a bpffs has directories");
            let _ = say.send(bpffs.path().to_owned());
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        let mount = hear.recv()?;
        assert!(!mount.exists());
        assert!(!fs::read_to_string("/proc/mounts")?.contains(&*mount.to_string_lossy()));
        Ok(())
    }
}
