//! Suspects posted over https: which certificates are accepted, and what a failure costs.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, time::Instant};

use anyhow::{Context, Result, ensure};
use opb_lab::process::Process;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::Value;

use crate::node::{LIMIT, Node, OUTSIDE, Wire, syn};

const GOOD: u16 = 8441;
const OTHER_NAME: u16 = 8442;
const EXPIRED: u16 = 8443;
/// Takes connections and says nothing.
const SILENT: u16 = 8444;

/// OpenSSL's side of TLS: writes port, path and body of every POST into the file `posts`.
const SERVER: &str = r#"
import http.server, os, ssl, sys, threading

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open("posts", "ab") as posts:
            posts.write(b"%d %s %s\n" % (self.server.server_port, self.path.encode(), body))
        self.send_response(204)
        self.end_headers()

os.chdir(sys.argv[1])
for name in sys.argv[2:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{name}.pem", f"{name}.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(name)), Hook)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
"#;

/// Writes `ca.pem`, and a certificate and key by its authority for each port.
fn certificates(node: &Node) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    fs::write(node.path("ca.pem"), authority.pem())?;
    let ours = ["127.0.0.1", "localhost"];
    for (port, names, year) in [
        (GOOD, &ours[..], 4000),
        (OTHER_NAME, &["127.0.0.2", "noc.example.net"], 4000),
        (EXPIRED, &ours, 2020),
    ] {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut certificate = CertificateParams::new(names)?;
        certificate.not_before = date_time_ymd(2019, 1, 1);
        certificate.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        fs::write(node.path(&format!("{port}.key")), key.serialize_pem())?;
        let certificate = certificate.signed_by(&key, &authority)?;
        fs::write(node.path(&format!("{port}.pem")), certificate.pem())?;
    }
    Ok(())
}

fn serve(node: &Node) -> Result<Process> {
    let script = node.path("https.py");
    fs::write(&script, SERVER)?;
    let ports = [GOOD, OTHER_NAME, EXPIRED].map(|port| port.to_string());
    let mut command = node.gateway.command("python3");
    command.arg(script).arg(node.directory()).args(&ports);
    let mut server = Process::spawn("https.py", &mut command, &node.path("https.log"))?;
    let listens = || Ok(std::net::TcpStream::connect(("127.0.0.1", EXPIRED)).is_ok());
    server.wait_ready(LIMIT, || node.gateway.enter(listens))?;
    Ok(server)
}

/// The counts of reports to `to`, `command` or `webhook`.
fn alarm(node: &Node, to: &str) -> Result<Value> {
    let status = node.rows(&["status", "--json"])?;
    let alarms = status[0]["alarms"].as_array().context("alarms")?;
    Ok(alarms.iter().find(|alarm| alarm["to"] == to).context("an alarm")?.clone())
}

/// Starts the daemon with `suspect` in its node file, and makes 203.0.113.`last` a suspect.
fn suspect(node: &mut Node, suspect: &str, last: u8) -> Result<()> {
    if node.pid().is_ok() {
        node.stop()?;
        // Pinned talkers would make earlier suspects suspects again.
        node.detach()?;
    }
    let path = node.path("opb.yaml");
    let config = fs::read_to_string(&path)?;
    let kept = config.lines().filter(|line| !line.starts_with("suspect:"));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    fs::write(&path, format!("{kept}suspect: {{per-minute: 20, {suspect}}}\n"))?;
    node.run()?;
    let wire = Wire::open(&node.subscribers, "far0")?;
    (0..30).try_for_each(|_| wire.send(&syn([203, 0, 113, last].into(), OUTSIDE)))
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_webhook_over_https_is_verified() -> Result<()> {
    let mut node = Node::prepare("auto", "")?;
    certificates(&node)?;
    let mut server = serve(&node)?;
    let posts = node.path("posts");
    let ca_file = |name: &str| format!("ca-file: {}", node.path(name).display());
    let (ca, missing) = (ca_file("ca.pem"), ca_file("none.pem"));
    for (last, host, port, trust, failure) in [
        (9, "127.0.0.1", GOOD, &*ca, None),
        (10, "localhost", GOOD, &ca, None),
        (11, "127.0.0.1", GOOD, "", Some("UnknownIssuer")),
        (12, "127.0.0.1", OTHER_NAME, &ca, Some("not valid for name")),
        (13, "127.0.0.1", EXPIRED, &ca, Some("expired")),
        (14, "127.0.0.1", GOOD, &missing, Some("`ca-file`: no such file or directory")),
    ] {
        let keys = format!("webhook: \"https://{host}:{port}/hook?key=s3cret\", {trust}");
        let before = fs::read_to_string(&posts).unwrap_or_default();
        suspect(&mut node, &keys, last)?;
        let counted = node.wait(&format!("a report to {host}:{port}"), || {
            let alarm = alarm(&node, "webhook")?;
            Ok((alarm["delivered"] != 0 || alarm["failed"] != 0).then_some(alarm))
        })?;
        let after = fs::read_to_string(&posts).unwrap_or_default();
        if let Some(failure) = failure {
            ensure!(counted["delivered"] == 0 && after == before, "{keys}: {counted}\n{after}");
            let log = fs::read_to_string(node.path("opb.log"))?;
            let reported = format!("webhook https://{host}:{port}: a report of a suspect failed: ");
            let reported = log.lines().any(|it| it.contains(&reported) && it.contains(failure));
            ensure!(reported && !log.contains("s3cret"), "no {failure} in {log}");
            let metric = "opb_alarms_total{outcome=\"failed\",to=\"webhook\"}";
            ensure!(node.metric(metric)? >= 1, "{metric}");
        } else {
            ensure!(counted["failed"] == 0, "{keys}: {counted}");
            let subscriber = format!("203.0.113.{last}");
            let event = node.wait(&format!("the post of {subscriber}"), || {
                let after = fs::read_to_string(&posts)?;
                let added = after.strip_prefix(&before).context("posts are added at the end")?;
                let head = format!("{port} /hook?key=s3cret ");
                let mut events = added.lines().filter_map(|post| {
                    serde_json::from_str::<Value>(post.strip_prefix(&head)?).ok()
                });
                Ok(events.find(|event| event["subscriber"] == subscriber))
            })?;
            Node::conforms("Event", &event)?;
        }
    }
    server.stop()?;
    node.end()
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn a_server_that_never_answers_over_tls_delays_nothing_else() -> Result<()> {
    let mut node = Node::prepare("auto", "")?;
    let _silent = node.gateway.enter(|| Ok(TcpListener::bind(("127.0.0.1", SILENT))?))?;
    let (command, told) = (node.path("tell"), node.path("told"));
    fs::write(&command, format!("#!/bin/sh\ncat > {}\n", told.display()))?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    let keys = format!("webhook: \"https://127.0.0.1:{SILENT}/\", command: {}", command.display());
    let started = Instant::now();
    suspect(&mut node, &keys, 9)?;
    node.wait("the command", || Ok((alarm(&node, "command")?["delivered"] == 1).then_some(())))?;
    let denied = node.counted("drop")?;
    Wire::open(&node.subscribers, "far0")?.send(&syn([203, 0, 113, 10].into(), OUTSIDE))?;
    node.wait("one more", || Ok((node.counted("drop")? == denied + 1).then_some(())))?;
    ensure!(node.opb(&["reload"])?.stdout.contains("unchanged"));
    let webhook = alarm(&node, "webhook")?;
    let slow = started.elapsed();
    ensure!(webhook["waiting"] == 1, "{webhook}: all of the above took {slow:?}");

    let webhook = node.wait("the end of the time", || {
        Ok(Some(alarm(&node, "webhook")?).filter(|alarm| alarm["waiting"] == 0))
    })?;
    ensure!(webhook["delivered"] == 0 && webhook["failed"] == 1, "{webhook}");
    let log = fs::read_to_string(node.path("opb.log"))?;
    let reported = format!(
        "webhook https://127.0.0.1:{SILENT}: a report of a suspect failed: timed out after"
    );
    ensure!(log.contains(&reported), "{log}");
    node.end()
}
