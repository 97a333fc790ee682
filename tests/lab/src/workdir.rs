//! A scratch directory that goes away however its owner ends.
//!
//! `Drop` covers return and panic, but neither Ctrl-C nor SIGKILL. A bpffs left mounted by a killed
//! demo keeps its pinned programs alive until the next boot, so a tiny child watches for our death and
//! does the same cleaning from outside.

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A directory that is removed, together with a file system mounted at [`Workdir::mount_point`].
///
/// A subdirectory may hold a script `on-death`, which runs first if we are killed: for programs that do not
/// die with us.
#[derive(Debug)]
pub struct Workdir {
    // Declared first: the janitor has to be gone before the directory is, or both would delete at once.
    janitor: Janitor,
    dir: TempDir,
}

pub(crate) const ON_DEATH: &str = "on-death";

impl Workdir {
    pub fn new(label: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("opb-{}-", unique(label)))
            .tempdir()
            .context("cannot make a scratch directory")?;
        // Postfix drops its privileges and must still be able to walk down to its queue.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))
            .context("cannot open up the scratch directory")?;
        let janitor = Janitor::watch(dir.path())?;
        Ok(Self { janitor, dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The one place below the directory where a file system may be mounted.
    pub fn mount_point(&self) -> PathBuf {
        mount_point(self.path())
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.mount_point());
        self.janitor.dismiss();
    }
}

/// A name that no other run and no other thread of this run uses.
pub(crate) fn unique(label: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{label}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn mount_point(dir: &Path) -> PathBuf {
    dir.join("bpf")
}

/// Holds the write end of a pipe. The kernel closes it when we die, and an end of file without a word
/// before it is the janitor's sign to start.
#[derive(Debug)]
struct Janitor {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Janitor {
    const SCRIPT: &str = r#"
        read -r dismissed && exit
        for script in "$1"/*/on-death; do [ -f "$script" ] && sh "$script"; done
        umount -l "$2"
        rm -rf --one-file-system -- "$1"
    "#;

    fn watch(dir: &Path) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", Self::SCRIPT, "opb-lab-janitor"])
            .arg(dir)
            .arg(mount_point(dir))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Its own group: Ctrl-C in the terminal must not reach it before its work is done.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    fn dismiss(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"dismissed\n");
        }
        let _ = self.child.wait();
    }
}
