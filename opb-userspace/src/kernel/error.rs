//! Errors of the kernel side.

use std::io;
use std::path::PathBuf;

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};
use opb_common::ABI_VERSION;

use super::link_type::Unreadable;
use crate::{image::FormatError, private};

/// An operation on the kernel failed. The running policy is what it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not on a BPF file system", path.display())]
    NotBpffs { path: PathBuf },
    #[error(transparent)]
    Private(#[from] private::Error),
    #[error("another opb holds {}", path.display())]
    Locked { path: PathBuf },
    #[error(
        "{} is pinned with another shape: {found}, but this version (ABI {ABI_VERSION}) makes {expected}",
        path.display()
    )]
    Shape { path: PathBuf, found: String, expected: String },
    #[error("the image in the kernel cannot be read")]
    Format(#[from] FormatError),
    #[error("the kernel refused {what}")]
    Call { what: &'static str, source: io::Error },
    #[error("the image in the kernel differs from what was written, and was not put in force")]
    ReadBack,
    #[error("the BPF programs do not load")]
    Load(#[source] Box<EbpfError>),
    #[error("the kernel refused the program {name}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("{} cannot be used as a map", path.display())]
    PinnedMap { path: PathBuf, source: Box<MapError> },
    #[error("a map of ours cannot be used")]
    Map(#[source] Box<MapError>),
    #[error("a map of ours cannot be pinned")]
    Pin(#[source] Box<PinError>),
    #[error("interface {interface}: {program} cannot be put on its {hook} hook")]
    Attach {
        interface: String,
        hook: &'static str,
        program: &'static str,
        source: Box<ProgramError>,
    },
    #[error("interface {interface}")]
    Interface { interface: String, source: io::Error },
    #[error("interface {interface}")]
    LinkType { interface: String, source: Unreadable },
    #[error("interface {interface}: {owner} is on its {hook} hook")]
    Occupied { interface: String, hook: &'static str, owner: String },
    #[error("the programs' debug lines cannot be read")]
    Log(#[source] aya_log::Error),
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Map(Box::new(error))
    }
}

impl From<PinError> for Error {
    fn from(error: PinError) -> Self {
        Self::Pin(Box::new(error))
    }
}

impl Error {
    /// What the operator can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotBpffs { .. } => {
                Some("mount one: mount -t bpf -o mode=0700 bpf /sys/fs/bpf".into())
            }
            Self::Locked { .. } => {
                Some("stop the running daemon first, or give this one other `pins`".into())
            }
            Self::Shape { .. } | Self::Format(_) => {
                Some("an incompatible version left it; `opb detach`, then `opb run`".into())
            }
            Self::PinnedMap { .. } => {
                Some("something else is pinned there: remove it, then `opb run`".into())
            }
            Self::Map(_) | Self::Pin(_) => {
                Some("the daemon's log has more; `opb doctor` examines kernel and memory".into())
            }
            Self::Occupied { .. } => {
                Some("`hook: tc` coexists with other programs on the interface".into())
            }
            Self::LinkType { source, .. } => Some(source.hint().into()),
            Self::Path { source, .. } | Self::Call { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(
                    "loading BPF programs needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"
                        .into(),
                )
            }
            _ => None,
        }
    }

    pub(super) fn program(name: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| Self::Program { name, source: Box::new(source) }
    }

    pub(super) fn path(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { action, path, source }
    }

    pub(crate) fn call(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { what, source }
    }
}
