//! What people type first, and what they are told.

use super::Bench;

#[test]
fn a_time_names_what_is_accepted() {
    let add = ["subscriber", "add", "203.0.113.9", "--exempt", "--until", "tomorrow"];
    let ended = Bench::new().opb(&add);
    assert_eq!(ended.code, Some(2));
    let expected = "invalid time `tomorrow`: expected for example 2027-03-31T00:00:00+09:00";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
}

#[test]
fn an_import_without_an_effect_is_one_error() {
    let bench = Bench::new();
    let lines: String = (0..150).map(|last| format!("203.0.113.{last}\n")).collect();
    bench.write("list", &format!("# all of them\n{lines}"));
    let ended = bench.opb(&["subscriber", "import", "list"]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.stderr.matches("no effect is given").count(), 1, "{}", ended.stderr);
    let expected = "opb: error: list:2: no effect is given for this line";
    assert!(ended.stderr.starts_with(expected), "{}", ended.stderr);
    assert!(ended.stderr.contains("(and for 149 more lines)"), "{}", ended.stderr);
}

/// A group without its prefixes, because the only one is wrong, is not the mistake.
#[test]
fn errors_come_before_the_warnings_that_follow_from_them() {
    let bench = Bench::new();
    bench.write(
        "new.yaml",
        "version: 1\nrelays: {wide: {addresses: [198.51.0.0/16]}}\n\
         groups: {a: {prefixes: [203.0.113.0/33], relays: [wide]}}\n",
    );
    for arguments in [&["check", "new.yaml"][..], &["diff", "new.yaml", "policy.yaml"]] {
        let ended = bench.opb(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        let place = |text| ended.stderr.find(text).unwrap_or_else(|| panic!("{}", ended.stderr));
        assert!(
            place("opb: error: new.yaml:3") < place("warning: 198.51.0.0/16"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_file_of_the_other_kind_is_named() {
    let bench = Bench::new();
    let ended = bench.opb(&["doctor", "--config", "policy.yaml"]);
    assert_eq!(ended.code, Some(2));
    let expected =
        "opb: error: policy.yaml:2:1: this looks like a policy file: expected a node file";
    assert!(ended.stderr.starts_with(expected), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("error").count(), 1, "{}", ended.stderr);

    std::fs::create_dir(bench.path("policy.d")).expect("a directory");
    let node = "version: 1\npolicy: x\ninterfaces: [{name: eth1, role: subscriber}]\n";
    bench.write("policy.d/opb.yaml", node);
    let ended = bench.opb(&["check", "policy.d"]);
    assert_eq!(ended.code, Some(2));
    let expected = "opb.yaml:2:1: this looks like a node file: expected a policy file";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("error").count(), 1, "{}", ended.stderr);
}
