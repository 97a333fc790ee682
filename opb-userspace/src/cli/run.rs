use std::{panic, path::PathBuf, process, thread};

use opb_userspace::{compiled::LoadError, daemon, kernel};
use tracing_subscriber::EnvFilter;

use super::{failure::Failure, log};

/// Which node this is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeFile {
    /// Node file
    #[arg(long, value_name = "FILE", env = "OPB_CONFIG", default_value = "/etc/opb/opb.yaml")]
    pub(crate) config: PathBuf,
}

/// Enforces the policy of this node until SIGTERM, in the foreground
///
/// SIGHUP reloads. When the process ends, however it ends, the kernel goes on enforcing: see `opb detach`.
/// OPB_LOG selects the log lines, as RUST_LOG does elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    node: NodeFile,
}

impl Run {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        end_with_the_main_thread();
        give_back_memory();
        // Until the last line is written.
        let _lines = log()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::from_error(&error))?;
        let result = runtime.block_on(daemon::run(self.node.config));
        // Something may hang that asks for a name or reads a file: nobody waits for that.
        runtime.shutdown_background();
        result.map_err(Failure::from)
    }
}

/// Tells the allocator to return large blocks to the kernel at once, and not to keep a heap for each thread. Threads that read and
/// compile a policy come and go, and each would leave behind a heap of the size of a policy.
#[cfg(target_env = "gnu")]
fn give_back_memory() {
    /// Bytes from which on a block has a mapping of its own (mallopt(3)).
    const LARGE: libc::c_int = 256 << 10;
    // SAFETY: sets two numbers of the allocator, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

/// Ends the process when its main thread panics. A runtime that cannot start a thread panics, and then waits for ever for threads
/// that never were; a process that ended is started again by whoever started it, and the kernel goes on enforcing.
#[expect(clippy::disallowed_methods, reason = "what is pinned stays; unwinding is what hangs")]
fn end_with_the_main_thread() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        if thread::current().name() == Some("main") {
            process::exit(101);
        }
    }));
}

/// Log lines go to stderr. The journal has times of its own.
fn log() -> Result<log::Guard, Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("OPB_LOG")
        .try_from_env();
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) if std::env::var_os("OPB_LOG").is_some() => {
            return Err(Failure::invalid("OPB_LOG is not a filter").caused_by(Some(&error)));
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
            daemon::Error::Kernel(error) => error.into(),
            _ => Self::from_error(&error),
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
