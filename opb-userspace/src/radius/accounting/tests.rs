use super::{super::packet::request, *};

const SECRET: &[u8] = b"testing123";
const ARRIVAL: i64 = 1_800_000_000_000;

fn reading() -> Reading {
    Reading { group_attribute: GroupAttribute::FilterId, default_group: None }
}

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn read_with(attributes: &[(u8, Vec<u8>)], reading: &Reading) -> Result<Request, Malformed> {
    let bytes = request(1, attributes, SECRET);
    let packet = Packet::parse(&bytes).expect("well formed");
    let source = "192.0.2.10".parse().expect("an address");
    read(&packet, source, ARRIVAL, reading)
}

/// A Start with further attributes.
fn start(more: &[(u8, Vec<u8>)]) -> Vec<(u8, Vec<u8>)> {
    [&[(40, number(1)), (44, b"s1".to_vec())], more].concat()
}

fn event(attributes: &[(u8, Vec<u8>)]) -> (Event, usize) {
    match read_with(attributes, &reading()) {
        Ok(Request::Report { event, refused }) => (*event, refused),
        other => panic!("{other:?}"),
    }
}

fn prefixes(attributes: &[(u8, Vec<u8>)]) -> (Vec<String>, usize) {
    let (event, refused) = event(&start(attributes));
    let texts = event.addresses.iter().map(|address| address.prefix.to_string());
    (texts.collect(), refused)
}

#[test]
fn addresses_of_both_families_are_read() {
    let delegated = [vec![0, 56], vec![0x20, 1, 0xd, 0xb8, 0x10, 0, 1, 0]].concat();
    let framed =
        [vec![0, 64], "2001:db8:1000:9::".parse::<Ipv6Addr>().expect("v6").octets().into()];
    let (found, refused) = prefixes(&[
        (8, vec![203, 0, 113, 9]),
        (123, delegated),
        (97, framed.concat()),
        (168, "2001:db8:1000::9".parse::<Ipv6Addr>().expect("v6").octets().into()),
        (22, b"198.18.4.0/24 203.0.113.9 1".to_vec()),
        (22, b"198.18.5.0 203.0.113.9".to_vec()),
        (99, b"2001:db8:2000::/48 :: 1".to_vec()),
    ]);
    let expected = [
        "198.18.4.0/24",
        // Of class C.
        "198.18.5.0/24",
        "203.0.113.9/32",
        "2001:db8:1000::9/128",
        "2001:db8:1000:9::/64",
        "2001:db8:1000:100::/56",
        "2001:db8:2000::/48",
    ];
    assert_eq!(refused, 0);
    assert_eq!(found, expected.map(str::to_owned));
}

#[test]
fn nobody_gets_the_world() {
    for route in ["0.0.0.0/0", "10.0.0.0", "203.0.0.0/19", "0.0.0.0/32", "255.255.255.255/32"] {
        assert_eq!(prefixes(&[(22, route.into())]), (vec![], 1), "{route}");
    }
    for route in ["::/0", "2001:db8::/39", "ff02::1/128", "fe80::1", "::1"] {
        assert_eq!(prefixes(&[(99, route.into())]), (vec![], 1), "{route}");
    }
    for route in ["", "nonsense", "203.0.113.0/33", "203.0.113.0/x", "2001:db8::/129"] {
        assert_eq!(prefixes(&[(22, route.into())]), (vec![], 0), "{route}");
    }
    // Addresses by which a server asks for another one (RFC 2865, section 5.8).
    for last in [254, 255] {
        assert_eq!(prefixes(&[(8, vec![255, 255, 255, last])]), (vec![], 1));
    }
    assert_eq!(prefixes(&[(97, vec![0, 0])]), (vec![], 1));
    let many = (0..100).map(|host| (22, format!("203.0.113.{host}/32").into_bytes()));
    let (found, refused) = prefixes(&many.collect::<Vec<_>>());
    assert_eq!((found.len(), refused), (MOST_ADDRESSES, 100 - MOST_ADDRESSES));
}

#[test]
fn a_netmask_adds_no_network() {
    for mask in [[255; 4], [255, 255, 255, 248], [255, 255, 255, 0], [0; 4], [255, 0, 255, 0]] {
        let found = prefixes(&[(8, vec![203, 0, 113, 9]), (9, mask.into())]);
        assert_eq!(found, (vec!["203.0.113.9/32".into()], 0), "{mask:?}");
    }
}

#[test]
fn the_group_is_the_first_value_that_is_ours() {
    let assigned = |attributes: &[(u8, Vec<u8>)]| event(&start(attributes)).0.assignment;
    let filter = |text: &str| (11, text.as_bytes().to_vec());
    assert_eq!(assigned(&[]), None);
    assert_eq!(assigned(&[filter("10M/2M")]), None, "a shaper's");
    assert_eq!(assigned(&[filter("10M/2M"), filter("opb:exempt")]), Some(Assignment::Exempt));
    let group = |name: &str| Some(Assignment::Group(name.into()));
    assert_eq!(assigned(&[filter("opb:dyn"), filter("opb:exempt")]), group("dyn"));

    let vendor = GroupAttribute::Vendor { enterprise: 32473, number: 7 };
    let reading = Reading { group_attribute: vendor, default_group: Some("dyn".into()) };
    let value = [&32473u32.to_be_bytes()[..], &[6, 3, 0, 7, 10], b"opb:open"].concat();
    for (attributes, expected) in [
        (start(&[(26, value.clone())]), group("open")),
        (start(&[filter("opb:open")]), None),
        (start(&[(26, value[..11].to_vec())]), None),
    ] {
        let Ok(Request::Report { event, .. }) = read_with(&attributes, &reading) else {
            panic!("{attributes:?}");
        };
        assert_eq!(event.assignment, expected, "{attributes:?}");
        assert_eq!(Some(event.default_assignment), group("dyn"));
    }
}

#[test]
fn who_and_when() {
    let circuit = [&3561u32.to_be_bytes()[..], &[1, 6], b"eth1"].concat();
    let (event, _) = event(&start(&[
        (1, b"user\x1b[2J\n".to_vec()),
        (31, vec![0xff, b'a']),
        (26, circuit),
        (32, b"bras1".to_vec()),
        (4, vec![192, 0, 2, 1]),
        (41, number(3)),
        (55, number(1_700_000_000)),
        (85, number(300)),
    ]));
    assert_eq!(event.key, Key { nas: "bras1".into(), id: "s1".into() });
    assert_eq!(event.at, Moment { here: ARRIVAL - 3000, there: Some(1_700_000_000) });
    assert_eq!(event.interim, Some(300));
    let Subscriber { user, calling_station, circuit } = event.subscriber;
    assert_eq!(user.as_deref(), Some("user\\u{1b}[2J\\u{a}"));
    assert_eq!(calling_station.as_deref(), Some("\\xffa"));
    assert_eq!(circuit.as_deref(), Some("eth1"));
}

#[test]
fn the_server_is_named_by_what_there_is() {
    let nas = |more: &[(u8, Vec<u8>)]| event(&start(more)).0.key.nas.to_string();
    assert_eq!(nas(&[]), "192.0.2.10", "the source");
    assert_eq!(nas(&[(4, vec![192, 0, 2, 1])]), "192.0.2.1");
    assert_eq!(nas(&[(4, vec![192, 0, 2, 1]), (32, b"bras1".to_vec())]), "bras1");
    assert_eq!(nas(&[(95, [&[0x20, 1][..], &[0; 14]].concat())]), "2001::");
    let (on, _) = event(&[(40, number(7)), (44, b"ignored".to_vec())]);
    assert_eq!((on.kind, &*on.key.id), (Kind::On, ""));
}

#[test]
fn what_is_missing_or_wrong_is_refused() {
    let read = |attributes: &[(u8, Vec<u8>)]| read_with(attributes, &reading());
    assert_eq!(read(&[(44, b"s1".to_vec())]), Err(Malformed::StatusType));
    assert_eq!(read(&[(40, number(1))]), Err(Malformed::SessionId));
    assert_eq!(read(&[(40, vec![1])]), Err(Malformed::Length(40)));
    assert_eq!(read(&start(&[(8, vec![203, 0, 113])])), Err(Malformed::Length(8)));
    for wrong in [vec![], vec![0], vec![0, 129], [vec![0, 64], vec![0; 17]].concat()] {
        assert_eq!(read(&start(&[(97, wrong)])), Err(Malformed::Length(97)));
    }
    assert_eq!(read(&[(40, number(9))]), Ok(Request::Other), "Tunnel-Start");
}
