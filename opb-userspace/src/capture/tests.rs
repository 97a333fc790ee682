//! Captures built by the tests, in all formats and byte orders.

use super::{Capture, CaptureError, LONGEST, Link, Packet};

/// A file in one of the two byte orders.
#[derive(Clone)]
struct File {
    big_endian: bool,
    bytes: Vec<u8>,
}

impl File {
    fn new(big_endian: bool) -> Self {
        Self { big_endian, bytes: Vec::new() }
    }

    fn u16(mut self, value: u16) -> Self {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(bytes);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(bytes);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Starts a pcap file.
    fn pcap(big_endian: bool, magic: u32, link_type: u32) -> Self {
        let file = Self::new(big_endian).u32(magic).u16(2).u16(4).u32(0).u32(0);
        file.u32(262_144).u32(link_type)
    }

    /// A packet of a pcap file.
    fn record(self, data: &[u8], original_length: u32) -> Self {
        let file = self.u32(1).u32(2).u32(data.len() as u32).u32(original_length);
        file.raw(data)
    }

    /// A pcapng block, padded.
    fn block(self, kind: u32, body: File) -> Self {
        let padding = body.bytes.len().next_multiple_of(4) - body.bytes.len();
        let length = (12 + body.bytes.len() + padding) as u32;
        self.u32(kind).u32(length).raw(&body.bytes).raw(&vec![0; padding]).u32(length)
    }

    fn body(&self) -> Self {
        Self::new(self.big_endian)
    }

    fn section(self) -> Self {
        let body = self.body().u32(0x1a2b_3c4d).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
        self.block(0x0a0d_0d0a, body)
    }

    fn interface(self, link_type: u16, snap_length: u32) -> Self {
        let body = self.body().u16(link_type).u16(0).u32(snap_length);
        self.block(1, body)
    }

    fn enhanced(self, interface: u32, data: &[u8], original_length: u32) -> Self {
        let body = self.body().u32(interface).u32(0).u32(0);
        let body = body.u32(data.len() as u32).u32(original_length).raw(data);
        self.block(6, body)
    }

    fn simple(self, data: &[u8], original_length: u32) -> Self {
        let body = self.body().u32(original_length).raw(data);
        self.block(3, body)
    }

    fn read(&self) -> Vec<Result<Packet, CaptureError>> {
        Capture::new(&*self.bytes).expect("a file header").collect()
    }

    fn packets(&self) -> Vec<Packet> {
        self.read().into_iter().map(|packet| packet.expect("a packet")).collect()
    }

    /// The packets before an error, and the error.
    fn until_error(&self) -> (Vec<Packet>, CaptureError) {
        let mut read = self.read();
        let error = read.pop().expect("something").expect_err("an error at the end");
        (read.into_iter().map(|packet| packet.expect("only the last is an error")).collect(), error)
    }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

fn packet(number: u64, link: Link, data: &[u8]) -> Packet {
    Packet { number, link, data: data.to_vec(), original_length: data.len() as u32 }
}

#[test]
fn pcap_in_every_flavour() {
    for big_endian in [false, true] {
        for magic in [MICROSECONDS, NANOSECONDS] {
            let file = File::pcap(big_endian, magic, ETHERNET);
            assert_eq!(file.packets(), []);
            let packets = file.record(b"first", 5).record(b"", 0).record(b"third", 5).packets();
            let expected = [&b"first"[..], b"", b"third"];
            let expected =
                (1..).zip(expected).map(|(number, data)| packet(number, Link::Ethernet, data));
            assert_eq!(packets, expected.collect::<Vec<_>>());
        }
    }
}

#[test]
fn pcap_of_bare_ip() {
    // The upper bits describe a frame checksum.
    for link_type in [101, 228, 229, 0x4000_0000 | 101] {
        let packets = File::pcap(false, MICROSECONDS, link_type).record(b"E", 1).packets();
        assert_eq!(packets, [packet(1, Link::BareIp, b"E")]);
    }
}

#[test]
fn pcapng_with_a_link_type_per_interface() {
    for big_endian in [false, true] {
        let file = File::new(big_endian).section().interface(1, 0).interface(101, 0);
        let file = file.interface(113, 0).enhanced(1, b"bare", 4).enhanced(0, b"ether", 5);
        let file = file.block(5, File::new(big_endian).u32(0).u32(0).u32(0)).simple(b"simple", 6);
        let expected = [
            packet(1, Link::BareIp, b"bare"),
            packet(2, Link::Ethernet, b"ether"),
            packet(3, Link::Ethernet, b"simple"),
        ];
        assert_eq!(file.packets(), expected, "an unused interface may be of any type");
    }
}

#[test]
fn pcapng_of_several_sections() {
    let mut file = File::new(false).section().interface(1, 0).enhanced(0, b"ether", 5);
    let other = File::new(true).section().interface(229, 0).enhanced(0, b"bare", 4);
    file = file.raw(&other.bytes);
    let expected = [packet(1, Link::Ethernet, b"ether"), packet(2, Link::BareIp, b"bare")];
    assert_eq!(file.packets(), expected);

    let (before, error) = file.raw(&File::new(false).section().bytes).simple(b"?", 1).until_error();
    assert_eq!(before, expected);
    assert!(matches!(error, CaptureError::UnknownInterface { number: 3, interface: 0 }), "{error}");
}

#[test]
fn short_captures_are_padded() {
    let check = |packet: &Packet, original_length, length| {
        assert_eq!((packet.original_length, packet.data.len()), (original_length, length));
        assert!(packet.data.starts_with(b"head"));
        assert!(packet.data[4..].iter().all(|byte| *byte == 0));
    };
    let longest = LONGEST as usize;
    let file = File::pcap(false, MICROSECONDS, ETHERNET).record(b"head", 1514);
    let packets = file.record(b"head", 65_550).record(b"head", u32::MAX).packets();
    check(&packets[0], 1514, 1514);
    check(&packets[1], 65_550, longest);
    check(&packets[2], u32::MAX, longest);

    // For a simple packet, only the snap length says how much was captured: here 4 bytes,
    // without the padding.
    let file = File::new(true).section().interface(1, 4).enhanced(0, b"head", 99);
    let packets = file.simple(b"head", 98).packets();
    check(&packets[0], 99, 99);
    check(&packets[1], 98, 98);
    let packets = File::new(false).section().interface(1, 5).simple(b"head\0xyz", 9).packets();
    check(&packets[0], 9, 9);
}

#[test]
fn data_longer_than_the_original_length_is_kept() {
    let packets = File::pcap(false, MICROSECONDS, ETHERNET).record(b"whole", 2).packets();
    assert_eq!((&*packets[0].data, packets[0].original_length), (&b"whole"[..], 2));
}

#[test]
fn big_captures_do_not_depend_on_the_reader() {
    /// Returns small pieces of odd lengths.
    struct Drip<'a>(&'a [u8]);

    impl std::io::Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = self.0.len().min(buffer.len()).min(777);
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    let data = vec![7; 60_000];
    let file = (0..40).fold(File::new(false).section().interface(1, 0), |file, _| {
        file.enhanced(0, &data, 60_000)
    });
    let capture = Capture::new(Drip(&file.bytes)).expect("a file header");
    let numbers: Vec<_> = capture.map(|packet| packet.expect("a packet").number).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

#[test]
fn other_files_are_refused_at_once() {
    for bytes in [&b""[..], b"\xa1", b"not a capture at all", &[0; 100]] {
        let error = Capture::new(bytes).err().expect("an error");
        assert_eq!(error.to_string(), "not a capture: expected pcap or pcapng");
    }
}

#[test]
fn truncated_files_give_what_they_have() {
    let pcap = File::pcap(false, MICROSECONDS, ETHERNET).record(b"first", 5);
    let ng = File::new(true).section().interface(1, 0).enhanced(0, b"first", 5);
    for (whole, start) in
        [(pcap.clone().record(b"second", 6), pcap), (ng.clone().enhanced(0, b"second", 6), ng)]
    {
        for length in start.bytes.len() + 1..whole.bytes.len() {
            let cut = File { bytes: whole.bytes[..length].to_vec(), ..whole };
            let (before, error) = cut.until_error();
            assert_eq!(before, [packet(1, Link::Ethernet, b"first")]);
            assert!(matches!(error, CaptureError::Truncated { number: 2 }), "{length}: {error}");
        }
        assert_eq!(start.packets().len(), 1);
        let error = Capture::new(&whole.bytes[..20]).err().expect("an error");
        assert!(matches!(error, CaptureError::Truncated { number: 1 }), "{error}");
    }
}

#[test]
fn unsupported_links_are_named() {
    let file = File::new(false).section().interface(1, 0).interface(113, 0);
    let (before, error) = file.enhanced(0, b"x", 1).enhanced(1, b"y", 1).until_error();
    assert_eq!(before.len(), 1);
    assert_eq!(
        error.to_string(),
        "packet 2 has link type 113 (Linux cooked, as captured on \"any\"): expected Ethernet \
         or raw IP"
    );
    let (_, error) = File::pcap(true, NANOSECONDS, 147).record(b"x", 1).until_error();
    assert!(error.to_string().contains("link type 147 (unknown)"), "{error}");
}

#[test]
fn nonsense_ends_the_capture() {
    let file = || File::new(false).section().interface(1, 0).enhanced(0, b"x", 1);
    let (before, error) = file().u32(6).u32(3).raw(&[0; 40]).until_error();
    assert_eq!(before.len(), 1);
    assert!(matches!(error, CaptureError::Damaged { number: 2 }), "{error}");
    let old = file().body().u16(0).u16(0).u32(0).u32(0).u32(1).u32(1).raw(b"x");
    let (_, error) = file().block(2, old).until_error();
    assert!(matches!(error, CaptureError::Obsolete { number: 2 }), "{error}");
    let (_, error) = file().enhanced(9, b"x", 1).until_error();
    assert!(matches!(error, CaptureError::UnknownInterface { number: 2, interface: 9 }), "{error}");

    let file = file().enhanced(9, b"x", 1).simple(b"x", 1);
    let mut capture = Capture::new(&*file.bytes).expect("a header");
    assert!(capture.by_ref().nth(1).is_some_and(|packet| packet.is_err()));
    assert!(capture.next().is_none(), "the first error ends it");
}

#[test]
fn damage_never_panics() {
    let mut random = fastrand::Rng::with_seed(25);
    let pcap = File::pcap(true, MICROSECONDS, ETHERNET).record(b"first", 5).record(b"second", 99);
    let ng = File::new(false).section().interface(1, 4).enhanced(0, b"one", 3).simple(b"two", 3);
    for original in [pcap, ng] {
        for _ in 0..20_000 {
            let mut bytes = original.bytes.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.choice([0, 1, 3, 6, 0x7f, 0xff]).expect("some");
            }
            let Ok(capture) = Capture::new(&*bytes) else { continue };
            assert!(capture.count() < 10);
        }
    }
}

/// Inputs that a fuzzer found: each ends with an error, without a panic and without a long read.
#[test]
fn found_by_fuzzing() {
    for entry in std::fs::read_dir("../tests/fixtures/captures").expect("fixtures") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a fixture");
        let last = Capture::new(&*bytes).map(|capture| capture.last());
        assert!(matches!(last, Err(_) | Ok(Some(Err(_)))), "{}: {last:?}", path.display());
    }
}
