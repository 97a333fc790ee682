//! Commands that ask a daemon, against a server of the test.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use crate::Bench;

/// Answers one request on `socket`. Returns the request line.
fn answer(socket: &Path, status: &str, body: &Value) -> JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.extend(byte);
        }
        stream.write_all((head + &body).as_bytes()).expect("the client listens");
        let request = String::from_utf8(request).expect("text");
        request.lines().next().unwrap_or_default().to_owned()
    })
}

#[test]
fn without_a_daemon_its_clients_fail() {
    let bench = Bench::new();
    for arguments in [
        &["status"][..],
        &["reload"],
        &["counters"],
        &["explain", "--src", "192.0.2.1", "--dst", "192.0.2.2"],
    ] {
        let ended = bench.opb(&[arguments, &["--control", "none.sock"]].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert_eq!(
            ended.stderr,
            "opb: error: no daemon answers at none.sock\n\
             caused by: No such file or directory (os error 2)\n\
             hint: start it with `opb run`, or name its socket with --control\n"
        );
    }
}

#[test]
fn a_rejected_reload_exits_with_2() {
    let bench = Bench::new();
    let socket = bench.path("opb.sock");
    let rejected =
        json!({"outcome": "rejected", "errors": [{"text": "a.yaml:1:1: wrong", "line": 1}]});
    let server = answer(&socket, "422 Unprocessable Entity", &rejected);
    let ended = bench.opb(&["reload", "--control", "opb.sock"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), "rejected\n"));
    assert_eq!(
        ended.stderr,
        "opb: error: a.yaml:1:1: wrong\nhint: the policy in force stays in force\n"
    );
    assert_eq!(server.join().expect("answered"), "POST /v1/reload HTTP/1.1");
}

#[test]
fn explain_asks_the_daemon_what_it_was_asked() {
    let bench = Bench::new();
    let refusal = json!({"error": "no policy is in force", "causes": ["nobody published one"]});
    let server = answer(&bench.path("opb.sock"), "500 Internal Server Error", &refusal);
    let arguments =
        ["explain", "--src", "2001:db8::1", "--dst", "2001:db8::2", "--control", "opb.sock"];
    let ended = bench.opb(&arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ended.stderr,
        "opb: error: no policy is in force\ncaused by: nobody published one\n"
    );
    assert_eq!(
        server.join().expect("answered"),
        "GET /v1/explain?src=2001%3Adb8%3A%3A1&dst=2001%3Adb8%3A%3A2&flags=S&direction=upstream HTTP/1.1"
    );
}

#[test]
fn counters_are_json_lines() {
    let bench = Bench::new();
    let row = |group: &str, packets: u64| json!({"group": group, "direction": "upstream", "verdict": "drop", "reason": "policy", "packets": packets, "bytes": 54});
    let server = answer(&bench.path("opb.sock"), "200 OK", &json!([row("a", 1), row("-", 2)]));
    let ended = bench.opb(&["counters", "--json", "--control", "opb.sock"]);
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended.stdout,
        "\
{\"group\":\"a\",\"direction\":\"upstream\",\"verdict\":\"drop\",\"reason\":\"policy\",\"packets\":1,\"bytes\":54}
{\"group\":\"-\",\"direction\":\"upstream\",\"verdict\":\"drop\",\"reason\":\"policy\",\"packets\":2,\"bytes\":54}
"
    );
    server.join().expect("answered");
}

/// Neither a daemon nor a filter: the command says both, and changes nothing.
#[test]
fn a_bypass_without_a_filter_is_refused() {
    let bench = Bench::new();
    let (socket, pins) = (bench.path("opb.sock"), bench.path("pins"));
    let (socket, pins) = (socket.display().to_string(), pins.display().to_string());
    let places = ["--control", &socket, "--pins", &pins];
    for asked in [&["--for", "30m", "--reason", "x"][..], &["--end"], &[]] {
        let ended = bench.opb(&[&["bypass"], asked, &places].concat());
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{asked:?}");
        for words in ["no daemon answers", "no filter of this version has its pins at", &pins] {
            assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
        }
    }
    assert!(!bench.path("pins").exists());
    let ended = bench.opb(&[&["bypass", "--for", "30m"], &places[..]].concat());
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--reason"), "{}", ended.stderr);
}
