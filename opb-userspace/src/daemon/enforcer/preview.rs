//! Previews: how two policies differ, for example the one in force and the files.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Enforcer,
    build::{BuildError, Order},
    reload::ReloadError,
    reloads::RestartOnly,
};
use crate::{
    api::{diff::Endpoints, reload::Preview},
    compiled::hex,
    daemon::load::Loaded,
    diff::diff_within,
    node::Interface,
    policy::Policy,
};

/// The most ranges of a preview. All changes of a million prefixes are gigabytes: each change has the
/// relays that its subscribers gain and lose.
const LISTED: usize = 100_000;

/// A comparison of two policies, before the work.
pub(in crate::daemon) struct PreviewOrder {
    interfaces: bool,
    from: Part,
    to: Part,
}

enum Part {
    InForce(Arc<Policy>, [u8; 16]),
    Other(Box<Order>),
}

impl Part {
    fn compile(self) -> Result<(Arc<Policy>, [u8; 16]), BuildError> {
        match self {
            Self::InForce(policy, digest) => Ok((policy, digest)),
            Self::Other(order) => {
                let compiled = order.compile()?;
                Ok((compiled.policy, compiled.image.digest()))
            }
        }
    }
}

impl PreviewOrder {
    /// Compiles the policies that are not in force, and compares.
    pub(in crate::daemon) fn compile(self) -> Result<Preview, ReloadError> {
        let Self { interfaces, from, to } = self;
        let ((from, _), (to, digest)) = (from.compile()?, to.compile()?);
        let (changes, unlisted) = diff_within(&from, &to, Timestamp::now(), LISTED);
        let endpoints = Endpoints::diff(&from, &to);
        Ok(Preview { digest: hex(digest), interfaces, changes, unlisted, endpoints })
    }
}

impl Enforcer {
    /// A comparison of two policies. `None` stands for the one in force.
    pub(in crate::daemon) fn preview(
        &self,
        from: Option<&Loaded>,
        to: Option<&Loaded>,
    ) -> Result<PreviewOrder, ReloadError> {
        let interfaces = self.interfaces_of(from)? != self.interfaces_of(to)?;
        let part = |loaded: Option<&Loaded>| match loaded {
            None => Part::InForce(Arc::clone(self.active.policy()), self.active.image().digest()),
            Some(loaded) => Part::Other(Box::new(self.order(&loaded.files))),
        };
        Ok(PreviewOrder { interfaces, from: part(from), to: part(to) })
    }

    fn interfaces_of<'a>(
        &'a self,
        loaded: Option<&'a Loaded>,
    ) -> Result<&'a [Interface], RestartOnly> {
        let Some(loaded) = loaded else { return Ok(&self.reloads.config().interfaces) };
        self.reloads.check_restart_only(&loaded.config)?;
        Ok(&loaded.config.interfaces)
    }
}
