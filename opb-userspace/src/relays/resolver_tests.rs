//! Answers of a name server in this file, as the resolver interprets them.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use hickory_resolver::proto::rr::Name;
use tokio::net::UdpSocket;

use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// The server's answers by record type: a response code, and the TTL of an address, if there is
/// one.
type Says = BTreeMap<u16, (u8, Option<u32>)>;

/// A name server, and the names that were asked for.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut packet).await {
                let (name, end) = name(&packet);
                let kind = u16::from_be_bytes([packet[end], packet[end + 1]]);
                heard.lock().expect("no panic").push(name);
                let (code, ttl) = says[&kind];
                let answer = answer(&packet[..end + 4], kind, code, ttl);
                drop(socket.send_to(&answer, from).await);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().expect("no panic").iter().cloned().collect()
    }
}

/// The name in the question, and where it ends.
fn name(packet: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while packet[at] != 0 {
        let label = at + 1..at + 1 + usize::from(packet[at]);
        name += &String::from_utf8_lossy(&packet[label.clone()]);
        name.push('.');
        at = label.end;
    }
    (name, at + 1)
}

/// RFC 1035, section 4: the header and the question, and one record that points to the name in it.
fn answer(question: &[u8], kind: u16, code: u8, ttl: Option<u32>) -> Vec<u8> {
    let mut answer = question.to_vec();
    (answer[2], answer[3]) = (0x85, 0x80 | code);
    answer[4..12].copy_from_slice(&[0, 1, 0, ttl.is_some().into(), 0, 0, 0, 0]);
    if let Some(ttl) = ttl {
        let address = if kind == A { vec![192, 0, 2, 1] } else { vec![0x20; 16] };
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((address.len() as u16).to_be_bytes());
        answer.extend(address);
    }
    answer
}

/// The answer about `mx`, and the time until the next question.
fn asked(says: [(u16, (u8, Option<u32>)); 2]) -> (DnsAnswer, Duration) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Server::start(says.into()).await;
        let resolver = make(&[server.address]).expect("a resolver");
        let (_, answer, rest) = ask(&resolver, "mx.isp.example".to_owned()).await;
        assert_eq!(server.asked(), ["mx.isp.example.".to_owned()].into());
        (answer, rest)
    })
}

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;

#[test]
fn the_shorter_time_to_live_decides_within_bounds() {
    for (ttls, expected) in [
        ([60, 3000], Duration::from_secs(60)),
        ([3000, 60], Duration::from_secs(60)),
        ([1, 1], SHORTEST),
        ([0, 60], SHORTEST),
        ([100_000, 200_000], LONGEST),
    ] {
        let [v4, v6] = ttls.map(|ttl| (NO_ERROR, Some(ttl)));
        let (answer, rest) = asked([(A, v4), (AAAA, v6)]);
        assert_eq!(rest, expected, "{ttls:?}");
        assert_eq!(answer.ipv4, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(answer.ipv6.map(|found| found.len()), Ok(1));
    }
    // A family without addresses is asked for again when the other one's answer runs out.
    let (answer, rest) = asked([(A, (NO_ERROR, Some(60))), (AAAA, (NO_ERROR, None))]);
    assert_eq!((answer.ipv6, rest), (Ok(Vec::new()), Duration::from_secs(60)));
}

#[test]
fn a_server_that_fails_or_refuses_gives_no_answer() {
    for code in [SERVER_FAILURE, REFUSED] {
        let (answer, rest) = asked([(A, (code, None)), (AAAA, (NO_ERROR, Some(3000)))]);
        assert!(answer.ipv4.is_err(), "code {code}: {answer:?}");
        assert!(answer.ipv6.is_ok(), "code {code}: {answer:?}");
        assert_eq!(rest, RETRY, "code {code}");
    }
    let (answer, rest) = asked([(A, (NO_SUCH_NAME, None)), (AAAA, (NO_SUCH_NAME, None))]);
    assert_eq!((answer.ipv4, answer.ipv6), (Ok(Vec::new()), Ok(Vec::new())));
    assert_eq!(rest, RETRY);
}

/// A name without dots, and a resolver that has search domains as `/etc/resolv.conf` gives them.
#[test]
fn no_search_domain_is_tried() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let nothing = (NO_SUCH_NAME, None);
        let server = Server::start([(A, nothing), (AAAA, nothing)].into()).await;
        let search = Name::from_ascii("corp.example.").expect("a name");
        let servers = vec![name_server(&server.address)];
        let config = ResolverConfig::from_parts(Some(search.clone()), vec![search], servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.build().expect("a resolver");
        for name in ["mx", "mx."] {
            ask(&resolver, name.to_owned()).await;
            assert_eq!(server.asked(), ["mx.".to_owned()].into(), "{name}");
        }
    });
}

/// Answers that violate RFC 1035: truncated, with names that point at themselves, with counts of
/// absent records, to another question, or of random bytes.
fn nonsense(question: &[u8], round: usize) -> Vec<u8> {
    let mut bytes = answer(question, A, NO_ERROR, Some(60));
    let mut random = fastrand::Rng::with_seed(round as u64);
    match round % 6 {
        0 => bytes.truncate(random.usize(..bytes.len())),
        // The name of the record points at itself.
        1 => {
            let own = question.len() as u16 | 0xc000;
            bytes[question.len()..question.len() + 2].copy_from_slice(&own.to_be_bytes());
        }
        2 => bytes[6..8].copy_from_slice(&[0xff, 0xff]),
        // Another transaction.
        3 => bytes[0] ^= 0xff,
        // Another name.
        4 => bytes[13] ^= 0x01,
        _ => (2..bytes.len()).for_each(|at| bytes[at] = random.u8(..)),
    }
    bytes
}

/// For anything that a name server sends, the result is an error or valid addresses, and the
/// resolver goes on.
#[test]
fn nonsense_is_not_an_answer() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let sends_nonsense = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&sends_nonsense);
        tokio::spawn(async move {
            let (mut packet, mut round) = ([0; 512], 0);
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let (_, end) = name(&packet[..length]);
                let kind = u16::from_be_bytes([packet[end], packet[end + 1]]);
                let bytes = match flag.load(Ordering::SeqCst) {
                    true => nonsense(&packet[..end + 4], round),
                    false => answer(&packet[..end + 4], kind, NO_ERROR, Some(60)),
                };
                round += 1;
                drop(socket.send_to(&bytes, from).await);
            }
        });
        let servers = vec![name_server(&address)];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        (builder.options_mut().timeout, builder.options_mut().attempts) =
            (Duration::from_millis(50), 1);
        let resolver = builder.build().expect("a resolver");
        let mut errors = 0;
        for round in 0..120 {
            let (name, answer, rest) = ask(&resolver, format!("mx{round}.isp.example")).await;
            assert_eq!(name, format!("mx{round}.isp.example"));
            assert!(rest >= SHORTEST, "{rest:?}");
            for found in [answer.ipv4, answer.ipv6] {
                match found {
                    Ok(addresses) => assert!(addresses.len() <= MOST, "{addresses:?}"),
                    Err(_) => errors += 1,
                }
            }
        }
        assert!(errors > 60, "{errors} of 240: too few to be an attack");
        sends_nonsense.store(false, Ordering::SeqCst);
        let (_, answer, _) = ask(&resolver, "mx.isp.example".to_owned()).await;
        assert_eq!(answer.ipv4, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
    });
}
