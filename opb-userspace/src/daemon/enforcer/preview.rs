//! Previews of reloads: what the files would change.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Enforcer,
    build::{BuildError, Order},
    reload::ReloadError,
};
use crate::{
    api::{diff::Endpoints, reload::Preview},
    compiled::hex,
    daemon::load::Loaded,
    diff::diff,
    policy::Policy,
};

/// A preview of a reload, before the work.
pub(in crate::daemon) struct PreviewOrder {
    interfaces: bool,
    before: Arc<Policy>,
    order: Order,
}

impl PreviewOrder {
    /// Compiles the other policy and compares.
    pub(in crate::daemon) fn compile(self) -> Result<Preview, ReloadError> {
        let Self { interfaces, before, order } = self;
        let compiled = order.compile().map_err(BuildError::from)?;
        let changes = diff(&before, &compiled.policy, Timestamp::now());
        let endpoints = Endpoints::diff(&before, &compiled.policy);
        Ok(Preview { digest: hex(compiled.image.digest()), interfaces, changes, endpoints })
    }
}

impl Enforcer {
    /// A comparison of the policy in force with the files.
    pub(in crate::daemon) fn preview(&self, loaded: &Loaded) -> Result<PreviewOrder, ReloadError> {
        self.reloads.check_restart_only(&loaded.config)?;
        Ok(PreviewOrder {
            interfaces: loaded.config.interfaces != self.reloads.config().interfaces,
            before: Arc::clone(self.active.policy()),
            order: self.order(&loaded.files),
        })
    }
}
