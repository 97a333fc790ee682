//! `opb doctor` about what few hosts have: flow tables, drivers that rework packets, an older kernel, control groups.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use opb_lab::{
    node::{LIMIT, Node},
    process::{self, Output},
    topology::Family,
};
use opb_userspace::{
    kernel::Hook as Effective,
    node::{Hook, Role},
};
use serde_json::Value;

use super::{
    links::vlan,
    nat::{carries, nft},
    net::{ACCESS, Answer, Filter, LINE, Net, POLICY, UPLINK, attach, tc},
    nic,
};

const OPB: &str = env!("CARGO_BIN_EXE_opb");

/// The doctor's findings for an interface with the programs of `filter`. No daemon runs, and the
/// doctor accepts that.
struct Doctor(Node);

impl Doctor {
    fn new(net: &Net, filter: &Filter, policy: &str, interface: &str) -> Result<Self> {
        let interfaces = format!("[{{name: {interface}, role: subscriber, filter: [upstream]}}]");
        let node = Node::prepare(Path::new(OPB), &net.gateway, policy, &interfaces, "")?;
        let pins = [node.pins(), filter.bpffs.path().join("opb")];
        let [own, theirs] = pins.map(|pins| pins.display().to_string());
        node.edit(|text| text.replace(&own, &theirs))?;
        Ok(Self(node))
    }

    fn command(&self) -> Command {
        self.0.command(&["doctor", "--json", "--accept", "daemon"])
    }

    /// Problems and notes of one check, as text. Fails unless the exit status fits.
    fn says(&self, check: &str) -> Result<[String; 2]> {
        heard(&process::run(&mut self.command(), LIMIT)?, check)
    }

    /// Fails unless there is a problem of this check, which says these words.
    fn warns(&self, check: &str, words: &str) -> Result<()> {
        let [problems, notes] = self.says(check)?;
        ensure!(problems.contains(words), "no {words:?} in problems {problems:?}, notes {notes:?}");
        Ok(())
    }

    /// Fails unless this check finds nothing worse than a note, which says these words.
    fn notes(&self, check: &str, words: &str) -> Result<()> {
        let [problems, notes] = self.says(check)?;
        ensure!(problems.is_empty(), "{problems}");
        ensure!(notes.contains(words), "no {words:?} in notes {notes:?}");
        Ok(())
    }
}

fn heard(output: &Output, check: &str) -> Result<[String; 2]> {
    let Output { status, stdout, stderr } = output;
    let report: Value =
        serde_json::from_str(stdout).with_context(|| format!("{status} {stderr}"))?;
    let healthy = report["healthy"] == true;
    ensure!(status.code() == Some(i32::from(!healthy)), "{status}: {report}");
    let findings = report["findings"].as_array().context("a list")?;
    let of = |level: &str| {
        let fits = |it: &&Value| it["check"] == check && it["level"] == level;
        findings.iter().filter(fits).map(ToString::to_string).collect::<String>()
    };
    Ok(["problem", "note"].map(of))
}

const FLOW_TABLE: &str = "table inet lab {
    flowtable fast { hook ingress priority 0; devices = { access, uplink }; }
    chain forward { type filter hook forward priority 0; meta l4proto tcp flow add @fast; }
}";

/// Flows that were offloaded on the device below do not meet a filter on the VLAN device above it. With `match: any` that
/// is a hole, and the doctor says so; below, nothing is missed.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_flow_table_below_the_filter() -> Result<()> {
    let net = Net::lay()?;
    vlan(&net.subscriber, LINE, "tagged", "802.1q", 100)?;
    vlan(&net.gateway, ACCESS, "tagged", "802.1q", 100)?;
    net.address("tagged", "tagged")?;
    let any = POLICY.replace("relays: [isp]}", "relays: [isp], match: any}");

    for (interface, misses) in [("tagged", true), (ACCESS, false)] {
        nft(&net.gateway, FLOW_TABLE)?;
        let (mut near, mut far) = net.session()?;
        for _ in 0..5 {
            carries(&near, &far)?;
        }
        let mut filter = Filter::new(&any)?;
        attach(&mut filter, &net.gateway, interface, Role::Subscriber, Hook::Tc, tc()?)?;
        let doctor = Doctor::new(&net, &filter, &any, interface)?;
        near.write_all(b"more")?;
        far.set_read_timeout(Some(Duration::from_secs(2)))?;
        let passed = far.read_exact(&mut [0; 4]).is_ok();
        ensure!(passed == misses, "an offloaded packet passed the filter on {interface}: {passed}");
        ensure!((filter.denied()? == 0) == misses, "counted: {}", filter.denied()?);
        if misses {
            doctor
                .warns("flow-table", "is on a device below this interface, and forwards without")?;
            doctor.0.write("policy.yaml", POLICY)?;
            doctor.notes("flow-table", "no group inspects later packets")?;
        } else {
            doctor.notes("flow-table", "XDP and TC ingress run before the flow table")?;
        }
        nft(&net.gateway, "delete table inet lab")?;
        let [problems, notes] = doctor.says("flow-table")?;
        ensure!(problems.is_empty() && notes.is_empty(), "without a flow table: {problems}{notes}");
        filter.detach(&net.gateway)?;
    }
    Ok(())
}

/// What comes without a tag is not for the subscriber.
const UNTAGGED: &str = "table inet lab {
    chain untagged { type filter hook prerouting priority 0; iifname line drop; }
}";

/// NICs that take tags out of the frame: the filter judges rightly, and from native XDP its resets go back without the tag.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn nics_that_take_tags_out() -> Result<()> {
    let mut cases = vec![("e1000", Hook::XdpGeneric, Effective::XdpGeneric, [Answer::Refused; 2])];
    // Its native XDP came with Linux 6.6, as TCX did.
    if tc()? == Effective::Tcx {
        let answers = [Answer::None, Answer::Refused];
        cases.push(("vmxnet3", Hook::Xdp, Effective::Xdp, answers));
    }
    for (driver, hook, effective, answers) in cases {
        let net = Net::over(&nic::pair(driver)?)?;
        vlan(&net.subscriber, LINE, "tagged", "802.1q", 100)?;
        vlan(&net.gateway, ACCESS, "tagged", "802.1q", 100)?;
        net.address("tagged", "tagged")?;
        // Linux would take the reset from any of its devices.
        nft(&net.subscriber, UNTAGGED)?;
        let reject = POLICY.replace("relays: [isp]}", "relays: [isp], action: reject}");
        let mut filter = Filter::new(&reject)?;
        let doctor = Doctor::new(&net, &filter, &reject, ACCESS)?;
        for (offload, expected) in ["on", "off"].into_iter().zip(answers) {
            let mut command = net.gateway.command("ethtool");
            process::check(command.args(["-K", ACCESS, "rxvlan", offload]))?;
            attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, hook, effective)?;
            for family in Family::BOTH {
                let got = net.mail_is_answered(family)?;
                ensure!(got == expected, "{driver}, rxvlan {offload}, {family}: {got:?}");
            }
            match (offload, expected) {
                ("off", _) => doctor.notes("rx-vlan", "")?,
                (_, Answer::Refused) => doctor.notes("rx-vlan", "with 1 VLAN devices above")?,
                _ => doctor.warns("rx-vlan", "with 1 VLAN devices above")?,
            }
        }
        filter.detach(&net.gateway)?;
    }
    Ok(())
}

/// A NIC that merges packets by itself. As a router's it would not be allowed to: it is switched on behind the kernel's back.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn large_receive_offload() -> Result<()> {
    let net = Net::over(&nic::pair("vmxnet3")?)?;
    net.address(LINE, ACCESS)?;
    let mut filter = Filter::new(POLICY)?;
    attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, Hook::Tc, tc()?)?;
    let doctor = Doctor::new(&net, &filter, POLICY, ACCESS)?;
    let lro = |state: &str| -> Result<()> {
        let mut command = net.gateway.command("ethtool");
        process::check(command.args(["-K", ACCESS, "lro", state])).map(drop)
    };
    lro("on")?;
    doctor.warns("lro", "large-receive-offload is on")?;
    lro("off")?;
    let [problems, _] = doctor.says("lro")?;
    ensure!(problems.is_empty(), "{problems}");
    net.is_filtered(&filter)?;
    filter.detach(&net.gateway)
}

#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_kernel_without_tcx() -> Result<()> {
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    let filter = Filter::new(POLICY)?;
    let doctor = Doctor::new(&net, &filter, POLICY, ACCESS)?;
    let [problems, notes] = doctor.says("kernel")?;
    ensure!(problems.is_empty(), "{problems}");
    match tc()? {
        Effective::Clsact => ensure!(notes.contains("TCX (Linux 6.6) is missing"), "{notes}"),
        _ => ensure!(notes.is_empty(), "{notes}"),
    }
    filter.detach(&net.gateway)
}

/// Programs load and filter without the kernel's own type information.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_kernel_without_btf() -> Result<()> {
    struct Hidden(&'static str);
    impl Drop for Hidden {
        fn drop(&mut self) {
            let _ = umount2(self.0, MntFlags::MNT_DETACH);
        }
    }
    let hidden = Hidden("/sys/kernel/btf");
    mount(Some("none"), hidden.0, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    ensure!(!Path::new("/sys/kernel/btf/vmlinux").exists(), "it is still there");

    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    let mut filter = Filter::new(POLICY)?;
    attach(&mut filter, &net.gateway, ACCESS, Role::Subscriber, Hook::Xdp, Effective::Xdp)?;
    attach(&mut filter, &net.gateway, UPLINK, Role::Core, Hook::Tc, tc()?)?;
    net.is_filtered(&filter)?;
    Doctor::new(&net, &filter, POLICY, ACCESS)?.notes("kernel", "(BTF) is missing")?;
    filter.detach(&net.gateway)
}

/// A control group that is too tight for another policy.
#[test]
#[ignore = "vm: cargo xtask test --lane vm"]
fn a_tight_control_group() -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/opb-tight";
    let net = Net::lay()?;
    net.address(LINE, ACCESS)?;
    let filter = Filter::new(POLICY)?;
    let doctor = Doctor::new(&net, &filter, POLICY, ACCESS)?;
    let [problems, _] = doctor.says("memory")?;
    ensure!(problems.is_empty(), "{problems}");

    // Controllers are given to groups below by the group above.
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
    fs::create_dir(GROUP)?;
    fs::write(format!("{GROUP}/memory.max"), "16M")?;
    let mut command = net.gateway.command("sh");
    let script = format!("echo $$ >{GROUP}/cgroup.procs; exec \"$@\"");
    command.args(["-ec", &script, "sh"]).arg(OPB).args(doctor.command().get_args());
    command.arg("--config").arg(doctor.0.path("opb.yaml"));
    let [problems, _] = heard(&process::run(&mut command, LIMIT)?, "memory")?;
    fs::remove_dir(GROUP)?;
    ensure!(problems.contains("opb-tight/memory.max"), "{problems}");
    filter.detach(&net.gateway)
}
