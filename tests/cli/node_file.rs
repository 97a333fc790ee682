//! A node file in place of a policy.

use super::Bench;

#[test]
fn a_node_file_stands_for_the_policy_that_it_names() {
    let bench = Bench::new();
    let node = "version: 1\npolicy: policy.yaml\ninterfaces: [{name: eth1, role: subscriber}]\n";
    bench.write("opb.yaml", node);
    bench.write("empty.pcap", "");
    let note = "opb: note: opb.yaml is a node file: using its policy, policy.yaml\n";
    let explain = |policy| {
        bench.opb(&["explain", "--policy", policy, "--src", "203.0.113.9", "--dst", "192.0.2.1"])
    };
    let (by_policy, by_node) = (explain("policy.yaml"), explain("opb.yaml"));
    assert_eq!((by_node.code, by_node.stdout), (by_policy.code, by_policy.stdout));
    assert_eq!((by_node.stderr.as_str(), by_policy.stderr.as_str()), (note, ""));

    let ended = bench.opb(&["diff", "policy.yaml", "opb.yaml"]);
    assert_eq!(ended.stdout, "no address is treated differently\n");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), note));

    // The policy is accepted; the error is about the capture.
    let ended = bench.opb(&["replay", "empty.pcap", "--policy", "opb.yaml"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.starts_with(note), "{}", ended.stderr);
    assert!(ended.stderr.contains("empty.pcap"), "{}", ended.stderr);

    // The error names the node file.
    bench.write("opb.yaml", &format!("{node}garbage: 1\n"));
    let ended = explain("opb.yaml");
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("unknown key `garbage`"), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("opb: error").count(), 1, "{}", ended.stderr);
}
