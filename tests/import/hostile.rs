//! Inputs that want to break the import: bounded work, an error with its line, no text that acts.

use opb_userspace::import::{Format, LIMIT, Options, import};

use crate::Compiled;

fn error(format: Format, bytes: &[u8]) -> String {
    let options = Options { format: Some(format), ..Options::default() };
    match import(bytes, "test", &options) {
        Ok(imported) => panic!("imported:\n{}", imported.yaml),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_name_line_and_cause() {
    for (format, text, wanted) in [
        (
            Format::Ios,
            " permit tcp any any eq 25\n",
            "line 1: an entry of an ACL, and no ACL starts above it",
        ),
        (
            Format::Ipset,
            "create a hash:ip\nadd b 192.0.2.1\n",
            "line 2: `add` to the set `b`, which no line creates",
        ),
        (Format::Ipset, "flush\n", "line 1: expected `create SET TYPE …` or `add SET ENTRY …`"),
        (Format::Junos, "firewall {\n}\n}\n", "line 3: `}` without `{`"),
        (Format::Junos, "firewall {\n  family inet {\n", "line 2: the input ends inside of `{`"),
        (Format::Junos, "\n/* open\n", "line 2: a comment does not end"),
        (Format::Junos, "\n\n\"open\n", "line 3: a text in quotes does not end"),
        (
            Format::NftJson,
            "{}",
            "the input is not JSON as `nft -j list ruleset` prints it: no list `nftables`",
        ),
        (Format::NftJson, "{\"nftables\": []}", "nothing to import: no rule denies TCP to port 25"),
        (Format::Nft, "table ip t {\n}\n", "nothing to import: the input has no set of addresses"),
        (Format::List, " \n", "the input is empty"),
    ] {
        assert_eq!(error(format, text.as_bytes()), wanted, "{text:?}");
    }
    let text = b"203.0.113.0/24\n\xff\n";
    assert_eq!(
        error(Format::List, text),
        "line 2 is not UTF-8: convert the input, for example with iconv"
    );
}

#[test]
fn sizes_and_nesting_are_bounded() {
    assert_eq!(
        error(Format::List, &vec![b' '; LIMIT + 1]),
        "the input is larger than 64000000 bytes, the limit"
    );
    let long = format!("\n{}", "1".repeat(1_000_001));
    assert_eq!(
        error(Format::Ios, long.as_bytes()),
        "line 2 is longer than 1000000 bytes, the limit"
    );
    let deep = "a {".repeat(100_000);
    assert_eq!(error(Format::Junos, deep.as_bytes()), "line 1: more than 64 levels of braces");
    let deep = "[".repeat(100_000);
    assert!(error(Format::NftJson, deep.as_bytes()).contains("recursion limit"));
    let many = "a ".repeat(5000);
    assert_eq!(
        error(Format::Junos, many.as_bytes()),
        "line 1: a statement has more than 4096 words"
    );
}

#[test]
fn chains_that_jump_in_a_circle_end() {
    let rule = |from: &str, to: &str| {
        format!(
            r#"{{"rule":{{"family":"ip","table":"t","chain":"{from}","expr":[{{"jump":{{"target":"{to}"}}}}]}}}}"#
        )
    };
    let base = r#"{"chain":{"family":"ip","table":"t","name":"a","type":"filter","hook":"forward","policy":"drop"}}"#;
    let text = format!(r#"{{"nftables":[{base},{},{}]}}"#, rule("a", "b"), rule("b", "a"));
    let wanted =
        "the rules are too complex: chains jump in a circle, or too deep, and the limit is 16";
    assert_eq!(error(Format::NftJson, text.as_bytes()), wanted);
    // Sixteen chains that each jump twice to the next would be 65,536 rules.
    let mut objects = vec![base.to_owned()];
    let name = |at: usize| if at == 0 { "a".to_owned() } else { format!("c{at}") };
    for at in 0..16 {
        objects.extend([rule(&name(at), &name(at + 1)), rule(&name(at), &name(at + 1))]);
    }
    let drop = r#"{"rule":{"family":"ip","table":"t","chain":"c16","expr":[{"drop":null}]}}"#;
    objects.push(drop.to_owned());
    let text = format!(r#"{{"nftables":[{}]}}"#, objects.join(","));
    assert!(error(Format::NftJson, text.as_bytes()).contains("too many rules"));
}

#[test]
fn many_rules_about_many_addresses_end() {
    use std::fmt::Write as _;
    let mut text = String::from("ip access-list extended MAIL\n");
    for at in 0..6000u32 {
        let (net, host) = (at % 4000 / 256, at % 256);
        let action = if at % 2 == 0 { "permit" } else { "deny" };
        let _ = writeln!(text, " {action} tcp host 10.0.{net}.{host} host 192.0.2.{host} eq 25");
        let _ = writeln!(text, " {action} tcp any host 198.18.{net}.{host} eq 25");
    }
    assert!(error(Format::Ios, text.as_bytes()).starts_with("the rules are too complex: too many"));
}

#[test]
fn text_of_the_source_stays_a_comment() {
    let evil = "name\u{1b}[2J\u{202e}groups:";
    let text = format!(
        "ip access-list extended {evil}\n deny tcp any any eq 25 \u{85}\u{2028}exemptions: {evil}\n deny tcp any any eq 25\n"
    );
    let imported =
        import(text.as_bytes(), "a\nversion: 2 \u{1b}", &Options::default()).expect("a policy");
    assert!(!imported.yaml.contains(['\u{1b}', '\u{2028}', '\u{85}']), "{}", imported.yaml);
    let summary = Compiled::of(&imported.yaml).policy.summary();
    assert_eq!((summary.groups, summary.exemptions), (1, 0), "{}", imported.yaml);
    for note in &imported.notes {
        assert!(!note.to_string().contains(['\u{1b}', '\n', '\u{2028}']), "{note}");
    }
}
