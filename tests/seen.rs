//! What an operator sees: counters, events, talkers, metrics and the status page, of a real node under real frames.

#[path = "seen/node.rs"]
mod node;

#[path = "seen/browser.rs"]
mod browser;
#[path = "seen/flood.rs"]
mod flood;
#[path = "seen/load.rs"]
mod load;
#[path = "seen/prometheus.rs"]
mod prometheus;
#[path = "seen/privacy.rs"]
mod privacy;
#[path = "seen/cost.rs"]
mod cost;
#[path = "seen/explain.rs"]
mod explain;
#[path = "seen/follow.rs"]
mod follow;
#[path = "seen/health.rs"]
mod health;
#[path = "seen/interfaces.rs"]
mod interfaces;
#[path = "seen/alarms.rs"]
mod alarms;
#[path = "seen/limits.rs"]
mod limits;
#[path = "seen/listener.rs"]
mod listener;
#[path = "seen/terminal.rs"]
mod terminal;
#[path = "seen/written.rs"]
mod written;
#[path = "seen/webhook.rs"]
mod webhook;
