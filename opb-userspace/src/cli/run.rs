use std::{panic, path::PathBuf, process, thread};

use opb_userspace::{compiled::LoadError, daemon, kernel};
use tracing_subscriber::EnvFilter;

use super::{failure::Failure, log};

/// The option that names the node file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeFile {
    /// Node file
    #[arg(long, value_name = "FILE", env = "OPB_CONFIG", default_value = "/etc/opb/opb.yaml")]
    pub(crate) config: PathBuf,
}

/// Run the daemon in the foreground until SIGTERM
///
/// SIGHUP reloads the files. When the process ends, for whatever reason, the kernel continues to
/// enforce; `opb detach` ends that. OPB_LOG selects the log lines, in the syntax of RUST_LOG.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb run --config /etc/opb/opb.yaml")]
pub(crate) struct Run {
    #[command(flatten)]
    node: NodeFile,
}

impl Run {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        end_with_the_main_thread();
        give_back_memory();
        // Dropping the guard waits for the last lines.
        let _lines = log()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::from_error(&error))?;
        let result = runtime.block_on(daemon::run(self.node.config));
        // A DNS query or a file system may hang: do not wait for it.
        runtime.shutdown_background();
        result.map_err(Failure::from)
    }
}

/// Makes the allocator return large blocks to the kernel at once, and limits the number of heaps.
/// Otherwise each short-lived thread that compiles a policy leaves a heap of that size behind.
#[cfg(target_env = "gnu")]
fn give_back_memory() {
    /// Blocks of at least this many bytes get a mapping of their own (mallopt(3)).
    const LARGE: libc::c_int = 256 << 10;
    // SAFETY: mallopt sets two parameters of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

/// Ends the process when its main thread panics. A runtime that cannot start a thread panics, and
/// unwinding then waits forever for threads that never started. After an exit, the service manager
/// restarts the daemon, and the kernel continues to enforce meanwhile.
#[expect(clippy::disallowed_methods, reason = "pins survive an exit; unwinding can hang")]
fn end_with_the_main_thread() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        if thread::current().name() == Some("main") {
            process::exit(101);
        }
    }));
}

/// Starts the log on stderr, without time stamps under systemd's journal, which has its own.
fn log() -> Result<log::Guard, Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("OPB_LOG")
        .try_from_env();
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) if std::env::var_os("OPB_LOG").is_some() => {
            return Err(Failure::invalid("invalid value of OPB_LOG")
                .caused_by(Some(&error))
                .hint("expected the syntax of RUST_LOG, for example info or debug,hyper=warn"));
        }
        Err(_) => EnvFilter::new("info,opb_ebpf=trace"),
    };
    let (writer, guard) = log::start().map_err(|error| Failure::from_error(&error))?;
    let lines =
        tracing_subscriber::fmt().with_writer(writer).with_ansi(false).with_env_filter(filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init();
    } else {
        lines.init();
    }
    Ok(guard)
}

impl From<daemon::Error> for Failure {
    fn from(error: daemon::Error) -> Self {
        match error {
            daemon::Error::Config(diagnostics) => diagnostics.into(),
            daemon::Error::Policy(error) => error.into(),
            _ => {
                let failure = Self::from_error(&error);
                match error.hint() {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
        }
    }
}

impl From<kernel::Error> for Failure {
    fn from(error: kernel::Error) -> Self {
        let failure = Self::from_error(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Invalid(diagnostics) => diagnostics.into(),
            LoadError::Compile(_) => Self::from_error(&error),
        }
    }
}
