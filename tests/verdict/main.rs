//! The verdict on the host: the packet table, frames at random, a judge that is not ours, and the answers to rejected
//! frames.

mod contract;
mod lab;
mod observed;
mod oracle;
mod resets;
mod table;

use opb_lab::{naive::Naive, packets::POLICY};

fn policy() -> Naive {
    Naive::from_yaml(POLICY).expect("the table's policy is one")
}
