//! A running daemon whose subscribers, files, relay hosts and interfaces change.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[path = "live/node.rs"]
mod node;

#[path = "live/entries.rs"]
mod entries;
#[path = "live/sessions.rs"]
mod sessions;
#[path = "live/meanwhile.rs"]
mod meanwhile;
#[path = "live/reloads.rs"]
mod reloads;
#[path = "live/trials.rs"]
mod trials;
#[path = "live/hosts.rs"]
mod hosts;
#[path = "live/interfaces.rs"]
mod interfaces;
#[path = "live/flaps.rs"]
mod flaps;
#[path = "live/link_types.rs"]
mod link_types;
#[path = "wire/tun.rs"]
mod tun;
#[path = "live/failures.rs"]
mod failures;
#[path = "live/hangs.rs"]
mod hangs;
#[path = "live/nogap.rs"]
mod nogap;
#[path = "live/prober.rs"]
mod prober;
#[path = "live/api.rs"]
mod api;
#[path = "live/hooks.rs"]
mod hooks;
#[path = "live/detached.rs"]
mod detached;
#[path = "live/groups.rs"]
mod groups;
#[path = "live/ownership.rs"]
mod ownership;
#[path = "live/members.rs"]
mod members;
#[path = "live/store.rs"]
mod store;
#[path = "live/actors.rs"]
mod actors;
#[path = "live/storms.rs"]
mod storms;
#[path = "live/overdue.rs"]
mod overdue;
#[path = "live/reused.rs"]
mod reused;
