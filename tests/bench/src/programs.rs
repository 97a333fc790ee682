//! The BPF programs of tests/bench/ebpf: loading, filling and running them.

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, IterableMap as _, MapData, PerCpuArray, ProgramArray, lpm_trie},
    programs::{
        Program, ProgramFd, SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
    },
};
use memmap2::MmapOptions;
use opb_lab::netns::Netns;
use opb_userspace::kernel::ReplayHook;

use crate::table::{Family, GROUPS, Source, Table, relays};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/opb-bench-ebpf"));

/// Length of the list of sources: `SOURCE_COUNT` of the driver.
pub const SOURCES: usize = 1 << 20;

/// One program of the object.
pub struct Loaded {
    ebpf: Ebpf,
    name: &'static str,
}

impl Loaded {
    fn new<'a>(name: &'static str, prepare: impl FnOnce(&mut EbpfLoader<'a>)) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        prepare(&mut loader);
        let ebpf = loader.load(OBJECT).context("cannot load the object of the benchmarks")?;
        let mut loaded = Self { ebpf, name };
        match loaded.program()? {
            Program::Xdp(xdp) => xdp.load(),
            Program::SchedClassifier(tc) => tc.load(),
            _ => anyhow::bail!("{name} is of a strange kind"),
        }
        .with_context(|| format!("cannot load {name}"))?;
        Ok(loaded)
    }

    pub fn empty(hook: ReplayHook) -> Result<Self> {
        match hook {
            ReplayHook::Xdp => Self::new("empty_xdp", |_| ()),
            ReplayHook::Tc => Self::new("empty_tc", |_| ()),
        }
    }

    fn program(&mut self) -> Result<&mut Program> {
        self.ebpf.program_mut(self.name).with_context(|| format!("there is no {}", self.name))
    }

    pub fn fd(&mut self) -> Result<&ProgramFd> {
        Ok(match self.program()? {
            Program::Xdp(xdp) => xdp.fd()?,
            other => <&mut SchedClassifier>::try_from(other)?.fd()?,
        })
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        Ok(self.program()?.try_into()?)
    }

    /// Until it is dropped.
    fn attach(&mut self, netns: &Netns, interface: &str) -> Result<()> {
        let name = self.name;
        let xdp = self.xdp()?;
        netns.enter(|| {
            let attached = xdp.attach(interface, XdpMode::Driver);
            attached.with_context(|| format!("cannot attach {name} to {interface}"))?;
            Ok(())
        })
    }

    /// Runs it on a frame, `repeat` times. Returns what it returned last.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<u32> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = match self.program()? {
            Program::Xdp(xdp) => xdp.test_run(options),
            other => <&mut SchedClassifier>::try_from(other)?.test_run(options),
        };
        Ok(result.with_context(|| format!("cannot run {}", self.name))?.return_value)
    }

    fn map<'a, T>(&'a mut self, name: &str) -> Result<T>
    where
        T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map_mut(name).with_context(|| format!("there is no map {name}"))?;
        Ok(map.try_into()?)
    }
}

/// Gives each packet another source, in front of a program under test.
pub struct Driver(Loaded);

impl Driver {
    /// For frames that have their source address at `source_at`.
    pub fn new(hook: ReplayHook, family: Family, source_at: usize) -> Result<Self> {
        let name = match hook {
            ReplayHook::Xdp => "drive_xdp",
            ReplayHook::Tc => "drive_tc",
        };
        let (source_at, is_ipv6) = (source_at as u32, u32::from(family.is_ipv6()));
        Ok(Self(Loaded::new(name, |loader| {
            loader
                .override_global("SOURCE_AT", &source_at, true)
                .override_global("IS_IPV6", &is_ipv6, true);
        })?))
    }

    pub fn set_sources(&mut self, sources: &[Source]) -> Result<()> {
        set_sources(&mut self.0, sources)
    }

    pub fn aim(&mut self, program: &ProgramFd) -> Result<()> {
        let mut array: ProgramArray<&mut MapData> = self.0.map("UNDER_TEST")?;
        Ok(array.set(0, program, 0)?)
    }

    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<u32> {
        self.0.test_run(frame, repeat)
    }
}

fn set_sources(program: &mut Loaded, sources: &[Source]) -> Result<()> {
    ensure!(sources.len() == SOURCES, "{} sources, not {SOURCES}", sources.len());
    let array: Array<&mut MapData, Source> = program.map("SOURCES")?;
    // SAFETY: a mappable array of this length, which no program reads meanwhile.
    let mut memory =
        unsafe { MmapOptions::new().len(size_of_val(sources)).map_mut(&array.map().fd().as_fd())? };
    memory.copy_from_slice(sources.as_flattened());
    Ok(())
}

/// Sends frames into a cable, each with the next source of the list.
pub struct Generator(Loaded);

impl Generator {
    /// Out of the interface with the number `out`. `frame` is an IPv4 packet in plain Ethernet, 80 bytes or more.
    pub fn new(out: u32, frame: &[u8]) -> Result<Self> {
        const SOURCE: usize = 26;
        let mut template = [0u64; 10];
        for (word, bytes) in template.iter_mut().zip(frame.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        // RFC 1071: the sum may be made in either byte order. Without checksum and source.
        let header = frame.get(14..34).context("no IPv4 header")?;
        let words = header.chunks_exact(2).enumerate().filter(|(at, _)| !(5..8).contains(at));
        let checksum: u32 =
            words.map(|(_, word)| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
        let source_at = SOURCE as u32;
        Ok(Self(Loaded::new("generate", |loader| {
            loader
                .override_global("SOURCE_AT", &source_at, true)
                .override_global("OUT", &out, true)
                .override_global("TEMPLATE", &template, true)
                .override_global("CHECKSUM", &checksum, true);
        })?))
    }

    pub fn set_sources(&mut self, sources: &[Source]) -> Result<()> {
        set_sources(&mut self.0, sources)
    }

    /// Returns the time from the first to the last frame. To be called in the namespace of the interface.
    pub fn send(&mut self, frame: &[u8], count: u32) -> Result<Duration> {
        /// What a driver takes at once.
        const BATCH: u32 = 64;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        let mut span: Array<&mut MapData, [u64; 4]> = self.0.map(".data.span")?;
        span.set(0, [0, count.into(), 0, 0], 0)?;
        self.0.xdp()?.test_run(options).context("cannot send frames")?;
        let span: Array<&mut MapData, [u64; 4]> = self.0.map(".data.span")?;
        let [made, _, first, last] = span.get(&0, 0)?;
        ensure!(made == u64::from(count), "{made} frames were made, not {count}");
        Ok(Duration::from_nanos(last - first))
    }
}

/// An XDP program that drops every packet.
pub struct DropAll(#[expect(dead_code, reason = "held, not used")] Loaded);

impl DropAll {
    pub fn attach(netns: &Netns, interface: &str) -> Result<Self> {
        let mut loaded = Loaded::new("drop_xdp", |_| ())?;
        loaded.attach(netns, interface)?;
        Ok(Self(loaded))
    }
}

/// The filter of LPM tries.
pub struct Reference(Loaded);

impl Reference {
    pub fn new(table: &Table) -> Result<Self> {
        let entries = table.size as u32;
        let mut loaded = Loaded::new("reference", |loader| {
            loader
                .map_max_entries("SUBSCRIBERS4", entries)
                .map_max_entries("SUBSCRIBERS6", entries);
        })?;
        for family in Family::BOTH {
            let subscribers =
                table.prefixes(family).iter().map(|(prefix, group)| (*prefix, *group as u32));
            let all_groups = (1u64 << GROUPS) - 1;
            let relays = relays()
                .filter(|relay| relay.is_ipv6() == family.is_ipv6())
                .map(|relay| (relay, all_groups));
            match family {
                Family::V4 => {
                    let key = |bits: u128| ((bits >> 96) as u32).to_be_bytes();
                    fill(loaded.map("SUBSCRIBERS4")?, subscribers, key)?;
                    fill(loaded.map("RELAYS4")?, relays, key)?;
                }
                Family::V6 => {
                    fill(loaded.map("SUBSCRIBERS6")?, subscribers, u128::to_be_bytes)?;
                    fill(loaded.map("RELAYS6")?, relays, u128::to_be_bytes)?;
                }
            }
        }
        Ok(Self(loaded))
    }

    pub fn fd(&mut self) -> Result<&ProgramFd> {
        self.0.fd()
    }

    pub fn attach(&mut self, netns: &Netns, interface: &str) -> Result<()> {
        self.0.attach(netns, interface)
    }

    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<u32> {
        self.0.test_run(frame, repeat)
    }

    /// Packets dropped so far.
    pub fn dropped(&mut self) -> Result<u64> {
        let counts: PerCpuArray<&mut MapData, [u64; 2]> = self.0.map("COUNTS")?;
        let mut sum = 0;
        for group in 0..GROUPS as u32 {
            sum +=
                counts.get(&(group << 1 | 1), 0)?.iter().map(|[packets, _]| packets).sum::<u64>();
        }
        Ok(sum)
    }
}

fn fill<K: aya::Pod, V: aya::Pod>(
    mut trie: lpm_trie::LpmTrie<&mut MapData, K, V>,
    entries: impl Iterator<Item = (opb_userspace::policy::Prefix, V)>,
    key: impl Fn(u128) -> K,
) -> Result<()> {
    for (prefix, value) in entries {
        let key = lpm_trie::Key::new(prefix.length().into(), key(prefix.bits()));
        trie.insert(&key, value, 0).with_context(|| format!("no room for {prefix}"))?;
    }
    Ok(())
}
