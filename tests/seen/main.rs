//! What an operator sees: counters, events, talkers, metrics and the status page, of a real node under real frames.

mod node;

mod browser;
mod flood;
mod load;
mod prometheus;
mod privacy;
mod cost;
mod explain;
mod follow;
mod health;
mod interfaces;
mod alarms;
mod limits;
mod listener;
mod other_rules;
mod terminal;
mod webhook;
mod written;
