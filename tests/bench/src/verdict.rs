//! The verdict alone: programs run by `BPF_PROG_TEST_RUN`, minus an empty program, everything alternating.
//!
//! Packets that are none of the filter's business are one frame, repeated. For SYNs to port 25 each packet gets another
//! source from a list: a driver writes it into the frame and calls the program under test by a tail call, and does the
//! same for the empty program, which takes it out of the difference.

use std::{fmt, thread};

use anyhow::{Context, Result, ensure};
use opb_common::{outcome::Verdict, settings::Settings};
use opb_lab::frames::{Ethernet, Ipv4, Ipv6, Packet, Payload, Tcp, Udp, flags::ACK};
use opb_userspace::{
    image::{GroupIds, Image},
    kernel::{Replay, ReplayHook},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{median, pin, processor_time},
    plan::Effort,
    plot::Plot,
    programs::{Driver, Loaded, Reference, SOURCES},
    report::Sheet,
    table::{Family, OUTSIDE, Shape, Sources, Table},
};

/// One line of the result: a program on one kind of traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub hook: Hook,
    pub family: Family,
    pub link: Link,
    pub traffic: Traffic,
    pub shape: Shape,
    /// Prefixes of each family.
    pub size: usize,
    pub subject: Subject,
    /// Nanoseconds a packet in each round.
    pub rounds: Vec<f64>,
    /// The same of the empty program, in the same rounds.
    pub empty: Vec<f64>,
}

impl Row {
    /// Median over median of the empty program, in nanoseconds.
    pub fn over_empty(&self) -> f64 {
        median(&self.rounds) - median(&self.empty)
    }

    /// All that tells one row from another.
    pub fn key(&self) -> (Hook, Family, Link, Traffic, Shape, usize, Subject) {
        let Self { hook, family, link, traffic, shape, size, subject, .. } = *self;
        (hook, family, link, traffic, shape, size, subject)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    #[serde(rename = "XDP")]
    Xdp,
    #[serde(rename = "TC")]
    Tc,
}

impl Hook {
    pub const BOTH: [Self; 2] = [Self::Xdp, Self::Tc];

    fn replay(self) -> ReplayHook {
        match self {
            Self::Xdp => ReplayHook::Xdp,
            Self::Tc => ReplayHook::Tc,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Xdp => "XDP",
            Self::Tc => "TC",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Link {
    Plain,
    #[serde(rename = "QinQ+PPPoE")]
    Access,
}

impl Link {
    pub const BOTH: [Self; 2] = [Self::Plain, Self::Access];

    fn frame(self, packet: &impl Packet) -> Vec<u8> {
        match self {
            Self::Plain => Ethernet::new(),
            Self::Access => Ethernet::new().tag(0x88a8, 100).tag(0x8100, 200).pppoe(),
        }
        .carrying(packet)
    }

    /// Bytes in front of the IP header.
    fn length(self) -> usize {
        match self {
            Self::Plain => 14,
            Self::Access => 14 + 4 + 4 + 8,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Access => "QinQ+PPPoE",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Traffic {
    /// A segment of a connection to port 443.
    #[serde(rename = "TCP 443")]
    Web,
    #[serde(rename = "UDP")]
    Udp,
    /// Opens connections to a mail server that is no relay.
    #[serde(untagged)]
    Smtp(Sources),
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web => f.pad("TCP 443"),
            Self::Udp => f.pad("UDP"),
            Self::Smtp(sources) => f.pad(&format!("SYN 25, {sources}")),
        }
    }
}

/// Whom the row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    #[serde(rename = "opb")]
    Opb,
    /// With events and talkers written down, as a node does unless it is told not to.
    #[serde(rename = "opb, events")]
    OpbEvents,
    #[serde(rename = "LPM tries")]
    Reference,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Opb => "opb",
            Self::OpbEvents => "opb, events",
            Self::Reference => "LPM tries",
        })
    }
}

pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let pinned = || {
        pin()?;
        measure(effort)
    };
    thread::scope(|scope| scope.spawn(pinned).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Everything several times over: a machine that others use as well has slow minutes, which must not decide about a table.
fn measure(effort: Effort) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for pass in 0..effort.passes() {
        for row in measure_once(effort)? {
            match rows.iter_mut().find(|known| known.key() == row.key()) {
                Some(known) => {
                    known.rounds.extend(row.rounds);
                    known.empty.extend(row.empty);
                }
                None => rows.push(row),
            }
        }
        eprintln!("bench: verdict: pass {} of {}", pass + 1, effort.passes());
    }
    Ok(rows)
}

fn measure_once(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &size in effort.sizes() {
        for shape in effort.pick(&[Shape::Mixed][..], &[Shape::Contiguous, Shape::Mixed]) {
            eprintln!("bench: verdict: {size} prefixes, {shape}");
            let table = Table::new(*shape, size)?;
            let mut reference = Reference::new(&table)?;
            for hook in Hook::BOTH {
                Bench::new(effort, &table, hook)?.run(&mut reference, &mut rows)?;
            }
        }
    }
    Ok(rows)
}

/// One table at one hook.
struct Bench<'a> {
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
    fn new(effort: Effort, table: &'a Table, hook: Hook) -> Result<Self> {
        let policy = table.policy();
        let image = Image::compile(&policy, &GroupIds::default(), 1, jiff::Timestamp::now())?;
        // As on a subscriber interface.
        let settings = Settings::SUBSCRIBER;
        let opb = Replay::untraced(&image, settings, hook.replay())?;
        let observed = (hook == Hook::Xdp)
            .then(|| Replay::untraced(&image, settings.with(Settings::OBSERVE), hook.replay()))
            .transpose()?;
        let empty = Loaded::empty(hook.replay())?;
        Ok(Self { effort, table, hook, empty, opb, observed, slots: image.slots().clone() })
    }

    fn run(&mut self, reference: &mut Reference, rows: &mut Vec<Row>) -> Result<()> {
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

    /// One frame that passes without a look at its addresses.
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
        // They are over soon.
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
        // Whoever does not do the work must not win.
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

/// Nanoseconds of processor time for each of `repeat` runs, and what came of the work.
pub fn time<T>(repeat: u32, work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let (time, result) = processor_time(work).context("BPF_PROG_TEST_RUN")?;
    Ok((time.as_nanos() as f64 / f64::from(repeat), result))
}

pub fn sheets(rows: &[Row]) -> Vec<Sheet> {
    let mut sheets = vec![passing_sheet(rows)];
    for hook in Hook::BOTH {
        let sheet = smtp_sheet(rows, hook);
        if !sheet.rows.is_empty() {
            sheets.push(sheet);
        }
    }
    sheets
}

/// Tables make no difference to this traffic, so there is one number for all of them.
fn passing_sheet(rows: &[Row]) -> Sheet {
    let mut sheet = Sheet::new(
        "Packets that are none of the filter's business: ns over an empty program",
        3,
        &["hook", "link", "traffic", "opb IPv4", "opb IPv6", "LPM tries IPv4", "LPM tries IPv6"],
    );
    for hook in Hook::BOTH {
        for link in Link::BOTH {
            for traffic in [Traffic::Web, Traffic::Udp] {
                let cell = |subject, family| {
                    passing(rows, hook, link, traffic, subject, family).map_or_else(String::new, ns)
                };
                let numbers = [Subject::Opb, Subject::Reference]
                    .into_iter()
                    .flat_map(|subject| Family::BOTH.map(|family| cell(subject, family)));
                let words = [hook.to_string(), link.to_string(), traffic.to_string()];
                sheet.rows.push(words.into_iter().chain(numbers).collect());
            }
        }
    }
    sheet
}

/// Nanoseconds over an empty program, median of all tables.
pub fn passing(
    rows: &[Row],
    hook: Hook,
    link: Link,
    traffic: Traffic,
    subject: Subject,
    family: Family,
) -> Option<f64> {
    let key = (hook, link, traffic, subject, family);
    let found = rows
        .iter()
        .filter(|row| (row.hook, row.link, row.traffic, row.subject, row.family) == key)
        .map(Row::over_empty);
    let found: Vec<f64> = found.collect();
    (!found.is_empty()).then(|| median(&found))
}

fn smtp_sheet(rows: &[Row], hook: Hook) -> Sheet {
    let title = format!("SYNs to port 25 at {hook}: ns over an empty program");
    let subjects: &[Subject] = match hook {
        Hook::Xdp => &[Subject::Opb, Subject::OpbEvents, Subject::Reference],
        Hook::Tc => &[Subject::Opb],
    };
    let mut header: Vec<String> = ["family", "link", "shape", "prefixes"].map(str::to_owned).into();
    for sources in Sources::ALL {
        header.extend(subjects.iter().map(|subject| format!("{sources}: {subject}")));
        if hook == Hook::Xdp {
            header.push("ratio".to_owned());
        }
    }
    let mut sheet = Sheet { title, header, words: 3, rows: Vec::new() };
    let mut seen = Vec::new();
    for row in rows.iter().filter(|row| row.hook == hook) {
        let key = (row.family, row.link, row.shape, row.size);
        if !matches!(row.traffic, Traffic::Smtp(_)) || seen.contains(&key) {
            continue;
        }
        seen.push(key);
    }
    seen.sort_by_key(|(family, link, shape, size)| {
        (family.is_ipv6(), *link == Link::Access, *shape == Shape::Mixed, *size)
    });
    for (family, link, shape, size) in seen {
        let mut cells =
            vec![family.to_string(), link.to_string(), shape.to_string(), size.to_string()];
        for sources in Sources::ALL {
            let find = |subject| {
                let key = (hook, family, link, Traffic::Smtp(sources), shape, size, subject);
                rows.iter().find(|row| row.key() == key).map(Row::over_empty)
            };
            cells
                .extend(subjects.iter().map(|subject| find(*subject).map_or_else(String::new, ns)));
            if hook == Hook::Xdp {
                let ratio = find(Subject::Opb).zip(find(Subject::Reference)).map(|(a, b)| a / b);
                cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            }
        }
        sheet.rows.push(cells);
    }
    sheet
}

fn ns(value: f64) -> String {
    format!("{value:.1}")
}

/// The hardest table, in plain Ethernet at XDP.
pub fn plots(rows: &[Row]) -> Vec<Plot> {
    let line = |family, subject, sources| {
        let key = (Hook::Xdp, family, Link::Plain, Traffic::Smtp(sources), Shape::Mixed, subject);
        let points = rows.iter().filter(|row| {
            (row.hook, row.family, row.link, row.traffic, row.shape, row.subject) == key
        });
        let points = points.map(|row| (row.size as f64, row.over_empty())).collect();
        (format!("{subject}, {sources}"), points)
    };
    let plot = |family: Family| Plot {
        file: format!("bench-verdict-{}", family.to_string().to_lowercase()),
        title: format!("Verdict on a SYN to port 25, {family}, prefixes of 11 lengths"),
        x: "prefixes",
        y: "ns over an empty program",
        lines: [Subject::Opb, Subject::Reference]
            .into_iter()
            .flat_map(|subject| Sources::ALL.map(|sources| line(family, subject, sources)))
            .collect(),
    };
    Family::BOTH.map(plot).into()
}
