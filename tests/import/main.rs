//! `opb import`: what the rules of others decide, the imported policy decides.

use std::{fs, net::IpAddr, path::PathBuf};

use jiff::Timestamp;
use opb_common::outcome::{Direction, Verdict};
use opb_userspace::{
    api::explain::Query,
    explain::explain,
    image::{GroupIds, Image},
    import::{Imported, Options, import},
    policy::Policy,
};

mod command;
mod fixtures;
mod hostile;
mod random;
mod real;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/import");
    fs::read_to_string(path.join(name)).expect(name)
}

fn imported(text: &str) -> Imported {
    import(text.as_bytes(), "test", &Options::default())
        .unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// An imported policy as the kernel gets it.
struct Compiled {
    policy: Policy,
    image: Image,
}

impl Compiled {
    fn of(yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("policy.yaml");
        fs::write(&file, yaml).expect("a file");
        let policy = Policy::load(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        let image = Image::compile(&policy, &GroupIds::default(), 1, Timestamp::now());
        let image = image.unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        Self { policy, image }
    }

    /// The verdict on a TCP packet to port 25 with these flags, such as `S`.
    fn verdict(&self, src: IpAddr, dst: IpAddr, flags: &str) -> Verdict {
        let query = Query {
            src,
            dst,
            sport: None,
            dport: Some(25),
            flags: flags.parse().unwrap_or_else(|_| panic!("flags {flags}")),
            direction: Direction::Upstream,
            outer_src: None,
            outer_dst: None,
        };
        let answer = explain(&query, &self.image, None, &self.policy, &[], Timestamp::now());
        answer.expect("two addresses of one family").verdict
    }

    fn passes(&self, src: IpAddr, dst: IpAddr, flags: &str) -> bool {
        self.verdict(src, dst, flags) == Verdict::Pass
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address"))
}
