//! One table at one hook.

use anyhow::{Result, ensure};
use opb_common::{outcome::Verdict, settings::Settings};
use opb_lab::frames::{Ipv4, Ipv6, Payload, Tcp, Udp, flags::ACK};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::Replay,
};

use super::{Hook, Link, Row, Subject, Traffic, time};
use crate::{
    plan::Effort,
    programs::{Driver, Loaded, Reference, SOURCES},
    table::{Family, OUTSIDE, Sources, Table},
};

pub(super) struct Bench<'a> {
    effort: Effort,
    table: &'a Table,
    hook: Hook,
    empty: Loaded,
    opb: Replay,
    /// At XDP only: it is the same code at both hooks.
    observed: Option<Replay>,
    slots: GroupIds,
}

impl<'a> Bench<'a> {
    pub(super) fn new(effort: Effort, table: &'a Table, hook: Hook) -> Result<Self> {
        let policy = table.policy();
        let image = Image::compile(&policy, &GroupIds::default(), 1, jiff::Timestamp::now())?;
        // As on a subscriber interface.
        let settings = Settings::SUBSCRIBER;
        let opb = Replay::untraced(&image, settings, hook.replay())?;
        let observed = (hook == Hook::Xdp)
            .then(|| Replay::untraced(&image, settings.with(Settings::OBSERVE), hook.replay()))
            .transpose()?;
        let empty = Loaded::empty(hook.replay())?;
        Ok(Self { effort, table, hook, empty, opb, observed, slots: image.group_ids().clone() })
    }

    pub(super) fn run(&mut self, reference: &mut Reference, rows: &mut Vec<Row>) -> Result<()> {
        for link in Link::BOTH {
            for family in Family::BOTH {
                for traffic in [Traffic::Web, Traffic::Udp] {
                    rows.extend(self.passing(link, family, traffic, reference)?);
                }
                // What the link layer costs is the same for every table.
                if link == Link::Plain || self.effort == Effort::Full {
                    let at = link.length() + if family.is_ipv6() { 8 } else { 12 };
                    let mut driver = Driver::new(self.hook.replay(), family, at)?;
                    for sources in Sources::ALL {
                        let all = self.table.sources(family, sources, SOURCES);
                        driver.set_sources(&all)?;
                        rows.extend(self.smtp(link, family, sources, &mut driver, reference)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// One frame that passes whatever its addresses are.
    fn passing(
        &mut self,
        link: Link,
        family: Family,
        traffic: Traffic,
        reference: &mut Reference,
    ) -> Result<Vec<Row>> {
        let frame = match traffic {
            Traffic::Udp => frame(link, family, Udp::new(53, 53, b"not mail either")),
            _ => frame(link, family, Tcp::new(40000, 443, ACK).data(b"not mail")),
        };
        // These runs are short.
        let repeat = self.effort.repeat() * 4;
        let [mut empty, mut opb, mut theirs] = [const { Vec::new() }; 3];
        for _ in 0..self.effort.rounds() {
            empty.push(time(repeat, || self.empty.test_run(&frame, repeat))?.0);
            let (time_of_opb, (passes, _)) =
                time(repeat, || Ok(self.opb.test_run(&frame, repeat)?))?;
            ensure!(passes, "opb does not let {traffic} pass");
            opb.push(time_of_opb);
            if self.hook == Hook::Xdp {
                theirs.push(time(repeat, || reference.test_run(&frame, repeat))?.0);
            }
        }
        let row = |subject, rounds| Row {
            hook: self.hook,
            family,
            link,
            traffic,
            shape: self.table.shape,
            size: self.table.size,
            subject,
            rounds,
            empty: empty.clone(),
        };
        let mut rows = vec![row(Subject::Opb, opb)];
        if self.hook == Hook::Xdp {
            rows.push(row(Subject::Reference, theirs));
        }
        Ok(rows)
    }

    /// SYNs to port 25 with a source from the list each.
    fn smtp(
        &mut self,
        link: Link,
        family: Family,
        sources: Sources,
        driver: &mut Driver,
        reference: &mut Reference,
    ) -> Result<Vec<Row>> {
        let frame = frame(link, family, Tcp::syn_to(25));
        let repeat = self.effort.repeat();
        let dropped = [self.dropped_by_opb()?, reference.dropped()?];
        let [mut empty, mut opb, mut observed, mut theirs] = [const { Vec::new() }; 4];
        for _ in 0..self.effort.rounds() {
            driver.aim(self.empty.fd()?)?;
            empty.push(time(repeat, || driver.test_run(&frame, repeat))?.0);
            driver.aim(self.opb.program()?)?;
            opb.push(time(repeat, || driver.test_run(&frame, repeat))?.0);
            if let Some(replay) = &mut self.observed {
                driver.aim(replay.program()?)?;
                observed.push(time(repeat, || driver.test_run(&frame, repeat))?.0);
            }
            if self.hook == Hook::Xdp {
                driver.aim(reference.fd()?)?;
                theirs.push(time(repeat, || driver.test_run(&frame, repeat))?.0);
            }
        }
        // A program that does not do the work must not win.
        let expected = match sources {
            Sources::Strangers => 0,
            _ => u64::from(repeat) * self.effort.rounds() as u64,
        };
        let by_opb = self.dropped_by_opb()? - dropped[0];
        ensure!(by_opb == expected, "opb dropped {by_opb} packets of {sources}, not {expected}");
        if self.hook == Hook::Xdp {
            let count = reference.dropped()? - dropped[1];
            ensure!(count == expected, "the LPM tries dropped {count}, not {expected}");
        }
        let row = |subject, rounds| Row {
            hook: self.hook,
            family,
            link,
            traffic: Traffic::Smtp(sources),
            shape: self.table.shape,
            size: self.table.size,
            subject,
            rounds,
            empty: empty.clone(),
        };
        let all = [
            row(Subject::Opb, opb),
            row(Subject::OpbEvents, observed),
            row(Subject::Reference, theirs),
        ];
        Ok(all.into_iter().filter(|row| !row.rounds.is_empty()).collect())
    }

    fn dropped_by_opb(&self) -> Result<u64> {
        let rows = self.opb.counters(&self.slots);
        Ok(rows.iter().filter(|row| row.verdict == Verdict::Drop).map(|row| row.packets).sum())
    }
}

fn frame(link: Link, family: Family, payload: impl Payload + 'static) -> Vec<u8> {
    match family {
        Family::V4 => link.frame(&Ipv4::new([1, 2, 3, 4], OUTSIDE.0).carrying(payload)),
        Family::V6 => {
            let source = [0x2400, 0, 0, 0, 0, 0, 0, 1];
            link.frame(&Ipv6::new(source, OUTSIDE.1).carrying(payload))
        }
    }
}
