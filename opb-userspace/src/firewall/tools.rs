//! Runs a program that lists rules, within limits of time and size.

use std::{
    env,
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Bytes of the longest listing.
const LONGEST: usize = 8 << 20;
/// Where the tools are, besides `PATH`: a user's shell may not have these.
const DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("`{0}` is not installed")]
    Missing(String),
    #[error("cannot run `{0}`: {1}")]
    Start(String, io::Error),
    #[error("`{0}` did not end in time")]
    Slow(String),
    #[error("`{0}` printed more than {limit} MB", limit = LONGEST >> 20)]
    Long(String),
    #[error("`{0}` failed: {1}")]
    Failed(String, String),
}

/// Returns what a program prints. Kills it at the deadline, with its children.
pub(super) fn output(
    program: &str,
    arguments: &[&str],
    deadline: Instant,
) -> Result<String, ToolError> {
    let path = find(program).ok_or_else(|| ToolError::Missing(program.to_owned()))?;
    let child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| ToolError::Start(program.to_owned(), error))?;
    let collected = collect(&mut child, deadline);
    if collected.is_err() {
        // Its process group has the number of its process.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    }
    let status = child.wait().map_err(|error| ToolError::Start(program.to_owned(), error))?;
    match collected {
        Ok([listing, _]) if status.success() => Ok(String::from_utf8_lossy(&listing).into_owned()),
        Ok([_, errors]) => {
            let errors = String::from_utf8_lossy(&errors);
            let first = errors.lines().next().unwrap_or("no message").trim().to_owned();
            Err(ToolError::Failed(program.to_owned(), first))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(ToolError::Slow(program.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(ToolError::Long(program.to_owned()))
        }
        Err(error) => Err(ToolError::Start(program.to_owned(), error)),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from));
    // An empty part of PATH means the working directory, which is nobody's tool directory.
    let directories = directories.filter(|directory| directory.is_absolute());
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Reads both outputs to their ends.
fn collect(child: &mut Child, deadline: Instant) -> io::Result<[Vec<u8>; 2]> {
    let mut output = child.stdout.take();
    let mut errors = child.stderr.take();
    let mut read = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 1 << 16];
    while output.is_some() || errors.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let ready = {
            let open = [output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
            let mut polled: Vec<_> =
                open.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            // Rounded up, so that no loop spins in the last millisecond.
            let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            poll(&mut polled, wait)?;
            let mut states = polled.iter().map(|fd| fd.any().unwrap_or(true));
            open.map(|fd| fd.is_some() && states.next().unwrap_or(false))
        };
        if ready[0] && append(&mut output, &mut buffer, &mut read[0])? {
            output = None;
        }
        if ready[1] && append(&mut errors, &mut buffer, &mut read[1])? {
            errors = None;
        }
    }
    Ok(read)
}

/// Reads once. Returns whether this was the end.
fn append(
    source: &mut Option<impl Read>,
    buffer: &mut [u8],
    into: &mut Vec<u8>,
) -> io::Result<bool> {
    let Some(source) = source else { return Ok(true) };
    let length = source.read(buffer)?;
    into.extend(buffer.get(..length).unwrap_or_default());
    if into.len() > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(length == 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(script: &str, limit: Duration) -> Result<String, ToolError> {
        output("sh", &["-c", script], Instant::now() + limit)
    }

    #[test]
    fn a_tool_is_bounded_in_time_and_size() {
        let long = Duration::from_secs(60);
        assert_eq!(run("echo a; echo b >&2", long).expect("an output"), "a\n");
        let start = Instant::now();
        // The child of the shell has the output, too.
        let slow = run("sleep 50; :", Duration::from_millis(100));
        assert!(matches!(slow, Err(ToolError::Slow(_))), "{slow:?}");
        assert!(start.elapsed() < Duration::from_secs(30), "it was killed");
        let endless = run("exec cat /dev/zero", long);
        assert!(matches!(endless, Err(ToolError::Long(_))), "{:?}", endless.map(|it| it.len()));
        let failed = run("echo no >&2; exit 3", long).expect_err("a failure").to_string();
        assert_eq!(failed, "`sh` failed: no");
        let missing = output("opb-no-such-tool", &[], Instant::now() + long);
        assert!(matches!(missing, Err(ToolError::Missing(_))), "{missing:?}");
    }
}
