//! What a local user without rights can do to the daemon: nothing.

use std::{
    fs::{File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use nix::fcntl::{Flock, FlockArg};
use opb_lab::process;

use super::*;
use crate::{node::Node, storms::filters};

const NOBODY: u32 = 65534;

/// Does it in the gateway's namespace with the rights of `nobody`. What `work` returns stays open.
pub(crate) fn as_nobody<T: Send>(node: &Node, work: impl FnOnce() -> T + Send) -> Result<T> {
    node.gateway.enter(|| {
        become_nobody()?;
        Ok(work())
    })
}

/// Of this thread alone, which ends with its work: hence the raw calls.
fn become_nobody() -> Result<()> {
    for (number, name) in [(libc::SYS_setresgid, "setresgid"), (libc::SYS_setresuid, "setresuid")] {
        // SAFETY: system calls on plain numbers.
        let result = unsafe {
            if number == libc::SYS_setresgid {
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
            }
            libc::syscall(number, NOBODY, NOBODY, NOBODY)
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context(name);
        }
    }
    Ok(())
}

/// Takes a lock, if the file can be opened for that.
fn lock(path: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok()
}

/// As in /var/lib and /run, anybody may pass the directory above.
pub(crate) fn open_house(node: &Node) -> Result<()> {
    Ok(fs::set_permissions(node.path(""), Permissions::from_mode(0o755))?)
}

/// Number of the map with the policy.
fn policy_map(node: &Node) -> Result<u64> {
    let path = node.mount().join("opb/v1/policy");
    let mut bpftool = node.gateway.command("bpftool");
    let shown = process::check(bpftool.args(["-j", "map", "show", "pinned"]).arg(path))?;
    let shown: Value = serde_json::from_str(&shown)?;
    shown["id"].as_u64().with_context(|| format!("an id: {shown}"))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nobody_can_keep_the_daemon_from_starting() -> Result<()> {
    let mut node = Node::prepare("")?;
    open_house(&node)?;
    node.run()?;
    let map = policy_map(&node)?;
    let files = ["opb.sock.lock", "state/entries.redb", "state/entries.mark", "state"];
    let mut paths: Vec<_> = files.iter().map(|name| node.path(name)).collect();
    paths.extend(["opb", "opb/v1", "opb/v1/links"].map(|name| node.mount().join(name)));
    // While it runs, and again while it does not.
    let while_it_runs =
        as_nobody(&node, || paths.iter().map(|path| lock(path)).collect::<Vec<_>>())?;
    node.stop()?;
    let (locks, socket) = as_nobody(&node, || {
        let name = format!("opb-policy-{map}");
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        (paths.iter().map(|path| lock(path)).collect::<Vec<_>>(), UnixListener::bind_addr(&address))
    })?;
    assert!(socket.is_ok(), "nobody may bind any abstract name that is free");
    node.run().context("with locks and names in the hands of nobody")?;
    filters(&node)?;
    for (path, lock) in paths.iter().zip(while_it_runs.iter().chain(&locks)) {
        assert!(lock.is_none(), "nobody has a lock on {}", path.display());
    }
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_pin_directory_that_nobody_made_first_is_no_obstacle() -> Result<()> {
    let mut node = Node::prepare("")?;
    // As systemd mounts it.
    fs::set_permissions(node.mount(), Permissions::from_mode(0o1777))?;
    let pins = node.mount().join("opb");
    let held = as_nobody(&node, || {
        fs::create_dir_all(pins.join("v1/links"))?;
        fs::create_dir(pins.join("v1/policy"))?;
        io::Result::Ok([pins.clone(), pins.join("v1")].map(|path| lock(&path)))
    })??;
    assert!(held.iter().all(Option::is_some), "the attack is one");
    node.run()?;
    filters(&node)?;
    for path in [pins.clone(), pins.join("v1")] {
        let found = fs::metadata(&path)?;
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700), "{}", path.display());
    }
    assert!(node.said().contains("65534"), "{}", node.said());
    node.stop()
}

/// Directories in each other, too many for any path.
fn dig(top: &Path) -> io::Result<()> {
    fs::create_dir(top)?;
    let mut here = File::open(top)?;
    for _ in 0..3000 {
        let next = format!("/proc/self/fd/{}/d", here.as_raw_fd());
        fs::create_dir(&next)?;
        here = File::open(next)?;
    }
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn whatever_nobody_puts_where_pins_belong_is_no_obstacle() -> Result<()> {
    let mut node = Node::prepare("")?;
    fs::set_permissions(node.mount(), Permissions::from_mode(0o1777))?;
    let pins = node.mount().join("opb");
    let target = node.path("target");
    fs::create_dir(&target)?;
    fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    for what in ["a link", "a link inside", "a deep hole"] {
        as_nobody(&node, || match what {
            "a link" => symlink(&target, &pins),
            "a link inside" => fs::create_dir(&pins).and_then(|()| symlink("x", pins.join("v1"))),
            _ => dig(&pins),
        })?
        .context(what)?;
        node.run().context(what)?;
        filters(&node).context(what)?;
        assert_eq!(fs::metadata(&pins)?.uid(), 0, "{what}");
        node.stop()?;
        node.ask(&["detach", "--config", "opb.yaml"])?;
        assert!(!pins.exists(), "{what}");
    }
    // Somebody who does not stop.
    let done = Arc::new(AtomicBool::new(false));
    let (stop, place, link) = (Arc::clone(&done), pins.clone(), target.clone());
    let racer = thread::spawn(move || {
        become_nobody().expect("root may");
        let mut made = 0;
        while !stop.load(Ordering::Relaxed) {
            made += usize::from(symlink(&link, &place).is_ok());
            drop(fs::remove_file(&place));
            made += usize::from(fs::create_dir(&place).is_ok());
        }
        made
    });
    let result = node.run();
    done.store(true, Ordering::Relaxed);
    let made = racer.join().ok().context("the racer ends")?;
    result?;
    assert!(made > 0, "the race is one");
    filters(&node)?;
    let found = fs::metadata(&target)?;
    assert_eq!(found.mode() & 0o777, 0o755, "nobody can have a directory of ours closed");
    assert_eq!(fs::read_dir(&target)?.count(), 0, "nothing was put there");
    node.stop()
}

/// Where any user may use bpf(2), nobody can make maps, but no filter.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn maps_that_nobody_pins_are_no_obstacle_and_a_filter_is() -> Result<()> {
    let mut node = Node::prepare("")?;
    fs::create_dir_all(node.pins().join("v1/links"))?;
    for name in ["v1/policy", "v1/links/tcx~upstream~ingress~1"] {
        let path = node.pins().join(name).display().to_string();
        let arguments = "type hash key 4 value 4 entries 1 name stranger";
        let mut bpftool = std::process::Command::new("bpftool");
        bpftool.args(["map", "create", &path]).args(arguments.split(' '));
        process::check(&mut bpftool)?;
        chown(node.pins().join(name), Some(NOBODY), None)?;
    }
    for directory in ["v1/links", "v1", ""] {
        chown(node.pins().join(directory), Some(NOBODY), None)?;
    }
    node.run()?;
    filters(&node)?;
    assert_eq!(fs::metadata(node.pins())?.uid(), 0);
    node.stop()?;

    // The filter of a daemon that ran as that user.
    chown(node.pins(), Some(NOBODY), None)?;
    let said = refusal(&node)?;
    assert!(said.contains("65534"), "{said}");
    chown(node.pins(), Some(0), None)?;
    node.run()?;
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn nobody_reads_what_operators_write() -> Result<()> {
    let mut node = Node::prepare("privacy: {addresses: hash}\n")?;
    open_house(&node)?;
    // As an earlier version left them.
    fs::create_dir(node.path("state"))?;
    fs::set_permissions(node.path("state"), Permissions::from_mode(0o755))?;
    fs::write(node.path("opb.sock.lock"), "")?;
    node.run()?;
    node.ask(&["subscriber", "add", "203.0.113.9", "--exempt", "--reason", "contract 4711"])?;
    let files = ["entries.redb", "privacy.key", "entries.mark"];
    for name in files {
        let path = node.path("state").join(name);
        let found = fs::metadata(&path).with_context(|| name.to_owned())?;
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600), "{name}");
        let read = as_nobody(&node, || fs::read(&path))?;
        assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied), "{name}");
    }
    assert_eq!(fs::metadata(node.path("state"))?.mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(node.path("opb.sock.lock"))?.mode() & 0o777, 0o600);
    let listed = as_nobody(&node, || fs::read_dir(node.path("state")).map(drop))?;
    assert!(listed.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));

    // A store that was readable stays so no longer.
    node.stop()?;
    fs::set_permissions(node.path("state/entries.redb"), Permissions::from_mode(0o644))?;
    node.run()?;
    assert_eq!(fs::metadata(node.path("state/entries.redb"))?.mode() & 0o777, 0o600);
    node.stop()
}

/// Says why `opb run` ended.
fn refusal(node: &Node) -> Result<String> {
    let ended =
        process::run(node.command(&["run", "--config"]).arg(node.path("opb.yaml")), node::LIMIT)?;
    assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
    Ok(ended.stderr)
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn directories_in_other_hands_are_refused_by_name() -> Result<()> {
    let mut node = Node::prepare("")?;
    open_house(&node)?;
    fs::create_dir(node.path("state"))?;
    chown(node.path("state"), Some(NOBODY), None)?;
    let said = refusal(&node)?;
    assert!(said.contains("state") && said.contains("65534"), "{said}");
    chown(node.path("state"), Some(0), None)?;

    // Ours, and open to all: tightened, if there is nothing but ours in it.
    fs::set_permissions(node.path("state"), Permissions::from_mode(0o777))?;
    fs::write(node.path("state/stranger"), "")?;
    let said = refusal(&node)?;
    assert!(said.contains("state") && said.contains("write"), "{said}");
    fs::remove_file(node.path("state/stranger"))?;
    node.run()?;
    assert_eq!(fs::metadata(node.path("state"))?.mode() & 0o7777, 0o700);
    node.stop()?;

    // A control socket in a place like /tmp.
    fs::set_permissions(node.path(""), Permissions::from_mode(0o1777))?;
    let said = refusal(&node)?;
    assert!(said.contains("write"), "{said}");
    open_house(&node)?;
    node.run()?;
    assert_eq!(fs::metadata(node.path(""))?.mode() & 0o7777, 0o755, "not ours alone");
    node.stop()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_directory_among_the_links_is_no_link() -> Result<()> {
    let mut node = Node::start("")?;
    node.stop()?;
    let index = fs::read_dir(node.mount().join("opb/v1/links"))?
        .filter_map(|link| link.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("xdp~"))
        .context("an XDP link")?;
    let stray = node.mount().join("opb/v1/links/stray");
    fs::create_dir(&stray)?;
    // And one where a link should be.
    let generic = index.replace("xdp~", "xdp-generic~");
    fs::create_dir(node.mount().join("opb/v1/links").join(generic))?;
    node.run()?;
    filters(&node)?;
    assert_eq!(node.status()?["state"], "enforcing");
    node.stop()?;
    let said = node.ask(&["detach", "--config", "opb.yaml"])?;
    assert!(!node.mount().join("opb").exists(), "{said}");
    Ok(())
}

/// Where any user can answer in the daemon's name, the daemon says that it is not the one.
#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn somebody_else_at_the_address_of_the_metrics_is_told() -> Result<()> {
    let mut node = Node::prepare("http: 127.0.0.1:9625\n")?;
    let taken = as_nobody(&node, || std::net::TcpListener::bind("127.0.0.1:9625"))??;
    node.run()?;
    let warns = |status: &Value| status["warnings"].to_string().contains("cannot be served");
    node.wait_status("it is told", warns)?;
    drop(taken);
    node.wait_status("it is over", |status| !warns(status))?;
    node.stop()
}
