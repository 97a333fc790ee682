//! The verdict on the host: the packet table, frames at random, a judge that is not ours, and the answers to rejected
//! frames.

#[path = "verdict/contract.rs"]
mod contract;
#[path = "verdict/lab.rs"]
mod lab;
#[path = "verdict/observed.rs"]
mod observed;
#[path = "verdict/oracle.rs"]
mod oracle;
#[path = "verdict/resets.rs"]
mod resets;
#[path = "verdict/table.rs"]
mod table;

use opb_lab::{naive::Naive, packets::POLICY};

fn policy() -> Naive {
    Naive::from_yaml(POLICY).expect("the table's policy is one")
}
