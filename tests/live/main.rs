//! A running daemon whose subscribers, files, relay hosts and interfaces change.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};
use opb_lab::{prober, tun};
use serde_json::{Value, json};

mod node;

mod entries;
mod sessions;
mod radius;
mod lost_resets;
mod meanwhile;
mod reloads;
mod bypass;
mod commits;
mod unconfirmed;
mod hosts;
mod relays;
mod interfaces;
mod flaps;
mod link_types;
mod failures;
mod hangs;
mod nogap;
mod api;
mod hooks;
mod detached;
mod groups;
mod ownership;
mod members;
mod store;
mod actors;
mod storms;
mod overdue;
mod reused;
mod stumbles;
