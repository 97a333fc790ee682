//! Child processes that are waited for with a deadline and never outlive the lab.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{prctl, signal},
    unistd::Pid,
};

/// How long a program may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Calls `condition` until it yields something, at most for `limit`.
pub fn wait_until<T>(
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, or kills it at the deadline and fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    // Files instead of pipes: nobody has to read while we wait. They have no name that could be left behind.
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = die_with_us(command)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let status = wait_until(limit, || Ok(child.try_wait()?))?;
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        bail!("{shown} was still running after {limit:?}\n{}", written(stderr)?);
    };
    Ok(Output { status, stdout: written(stdout)?, stderr: written(stderr)? })
}

/// Runs a short command that has to succeed, and returns its standard output.
pub fn check(command: &mut Command) -> Result<String> {
    let output = run(command, crate::release::patience(20)?)?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}{}", output.status, output.stdout, output.stderr);
    }
    Ok(output.stdout)
}

/// A long-running child. Dropping it ends it, by its process id, and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with everything that it says going to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = lead_a_session(die_with_us(command))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process has said so far.
    pub fn said(&self) -> Result<String> {
        text(&self.log)
    }

    /// Waits until `ready` holds. A process that ends first, or takes too long, is an error that shows
    /// its last words.
    pub fn wait_ready(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let child = &mut self.child;
        let outcome = wait_until(limit, || {
            if ready()? {
                return Ok(Some(None));
            }
            Ok(child.try_wait()?.map(Some))
        })?;
        match outcome {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                bail!("{} ended before it was ready: {status}\n{}", self.name, self.last_words())
            }
            None => {
                bail!("{} was not ready within {limit:?}\n{}", self.name, self.last_words())
            }
        }
    }

    /// Waits for the process to end by itself, and well.
    pub fn wait_success(&mut self, limit: Duration) -> Result<()> {
        let child = &mut self.child;
        match wait_until(limit, || Ok(child.try_wait()?))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{}: {status}\n{}", self.name, self.last_words()),
            None => bail!("{} did not end within {limit:?}\n{}", self.name, self.last_words()),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn signal(&self, signal: signal::Signal) -> Result<()> {
        signal::kill(self.pid(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks the process to end and waits for it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(signal::Signal::SIGTERM)?;
        let child = &mut self.child;
        if let Some(status) = wait_until(GRACE, || Ok(child.try_wait()?))? {
            return Ok(status);
        }
        self.kill()?;
        bail!("{} ignored SIGTERM for {GRACE:?}\n{}", self.name, self.last_words())
    }

    /// Kills the process without a chance to clean up.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    fn pid(&self) -> Pid {
        // Process ids fit: the kernel's own type is a signed int.
        Pid::from_raw(self.child.id() as i32)
    }

    fn last_words(&self) -> String {
        let said = self.said().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Signalled only while it is not reaped: so long its id cannot be anybody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.stop();
        }
    }
}

/// Lets the kernel kill the child when the thread that starts it ends, so that a killed demo leaves nothing
/// running. Start long-lived children from the thread that keeps them.
fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl is one system call; it neither allocates nor locks, so it is sound between
    // fork and exec.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(signal::Signal::SIGKILL)?)) }
}

/// A session of its own: Ctrl-C is for us, and we end our children in the right order. Postfix's master,
/// too, insists on leading one, and ends its services by their process group.
fn lead_a_session(command: &mut Command) -> &mut Command {
    // SAFETY: as above, setsid is one system call.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        })
    }
}

/// All of a file that a child has written through its own copy of the descriptor.
fn written(mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Result<Process> {
        Process::spawn("sh", Command::new("sh").args(["-c", script]), log)
    }

    #[test]
    fn one_that_ends_before_it_is_ready_shows_its_last_words() -> Result<()> {
        let log = tempfile::NamedTempFile::new()?;
        let mut process = shell("echo no such interface >&2; exit 3", log.path())?;
        let error = process.wait_ready(Duration::from_secs(10), || Ok(false)).expect_err("it ends");
        assert_eq!(
            error.to_string(),
            "sh ended before it was ready: exit status: 3\nno such interface"
        );
        Ok(())
    }

    #[test]
    fn dropping_ends_and_reaps() -> Result<()> {
        let log = tempfile::NamedTempFile::new()?;
        let process = shell("exec sleep 60", log.path())?;
        let entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
        Ok(())
    }

    #[test]
    fn a_command_that_hangs_is_killed_at_its_deadline() {
        let hang = run(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(hang.expect_err("it hangs").to_string().contains("was still running"));
    }
}
