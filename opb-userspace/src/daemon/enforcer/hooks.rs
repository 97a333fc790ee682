//! Whether the programs are still on the hooks that they were put on. Anybody with the rights can take them off, and the kernel
//! tells nobody.

use std::time::Instant;

use nix::net::if_::if_nametoindex;

use super::Enforcer;
use crate::api::status::Subject;
use crate::{
    errors::one_line,
    kernel::{self, Attached, Wanted},
};

impl Enforcer {
    /// Looks for programs that are off their hooks, and says so before anything is done about it: packets pass unfiltered there.
    /// The next look at the interfaces attaches them again. Whether the status has changed.
    pub(super) fn miss_detached(&mut self) -> bool {
        let lost = match self.detached() {
            Ok(lost) => lost,
            Err(error) => {
                let error = one_line(&error);
                let trouble = format!("cannot check that the programs are on their hooks: {error}");
                return self.complain(Subject::Hooks, trouble);
            }
        };
        let settled = self.troubles.remove(&Subject::Hooks).is_some();
        if lost.is_empty() {
            return settled;
        }
        self.covered.retain(|(wanted, _)| lost.iter().all(|(lost, _)| lost != wanted));
        for (wanted, attached) in lost {
            self.detachments += 1;
            let reason =
                format!("something took the {} program off its hook", attached.hook.name());
            self.uncovered.push((wanted, reason));
        }
        self.retry = Instant::now();
        self.report();
        true
    }

    fn detached(&self) -> Result<Vec<(Wanted, Attached)>, kernel::Error> {
        let mut lost = Vec::new();
        for (wanted, attached) in &self.covered {
            // In this order: the kernel forgets the name of an interface before it takes the programs off.
            if !self.kernel.is_in_place(wanted, attached.hook)? && exists(wanted) {
                lost.push((wanted.clone(), attached.clone()));
            }
        }
        Ok(lost)
    }
}

fn exists(wanted: &Wanted) -> bool {
    if_nametoindex(wanted.interface.as_str()).is_ok_and(|index| index == wanted.index)
}
