//! Locations are checked against the text itself: what is found at the reported place must be the
//! scalar.

use proptest::prelude::*;

use super::*;

/// Site and text of every key and string.
fn texts(node: &YamlNode<'_>, into: &mut Vec<(Site, String)>) {
    match &node.value {
        Value::Text(text) => into.push((node.site, text.to_string())),
        Value::Bool(value) => into.push((node.site, value.to_string())),
        Value::Int(value) => into.push((node.site, value.to_string())),
        Value::List(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Map(entries) => {
            for (key, value) in entries {
                into.push((key.site, key.text.to_string()));
                texts(value, into);
            }
        }
        Value::Null | Value::Float | Value::Huge | Value::Tagged => {}
    }
}

fn assert_located(text: &str) {
    let node = parse(text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let mut expected = Vec::new();
    texts(&node, &mut expected);
    let sites: Vec<Site> = expected.iter().map(|(site, _)| *site).collect();
    for ((_, token), position) in expected.iter().zip(locate(text, &sites)) {
        // The shape of line ends that the tests use; the columns count characters.
        let line = text.split('\n').nth(position.line - 1).unwrap_or_default();
        let rest: String = line.chars().skip(position.column - 1).collect();
        let rest = rest.trim_start_matches(['"', '\'']);
        assert!(
            rest.starts_with(token.as_str()),
            "{token} expected at {position:?}, is {rest:?}\n{text}"
        );
    }
    // Asking for fewer must not move anything.
    let all = locate(text, &sites);
    for (site, position) in sites.iter().zip(all) {
        assert_eq!(locate(text, &[*site]), [position]);
    }
}

#[test]
fn locates_block_flow_and_nested() {
    assert_located(
        "version: 1\ngroups:\n  a:\n    prefixes: [10.0.0.0/8, 2001:db8::/32]\n    ports:\n    - 25\n    - 26\n",
    );
    assert_located("{a: [b, {c: d}, [e, [f]]], g: {}, h: [], i: true}");
    assert_located("- a\n-  b\n-\n   c\n- - d\n  - e\n- f:\n    g\n");
    assert_located("# comment\n\n\"quoted key\": 'quoted value'\n");
}

#[test]
fn locates_with_crlf() {
    assert_located("version: 1\r\ngroups:\r\n  a: {prefixes: [x, y]}\r\n\r\n  b: c\r\n");
}

#[test]
fn columns_count_characters() {
    assert_located("理由: {固定IP: 契約, b: c}\n");
    let text = "a: [é, 固定, x]";
    let node = parse(text).expect("valid");
    let mut all = Vec::new();
    texts(&node, &mut all);
    assert_eq!(locate(text, &[3]), [Position { line: 1, column: 12 }]);
}

#[test]
fn an_alias_is_found_at_its_anchor() {
    let text = "a: &x [p, q]\nb: *x\nc: r\n";
    // a p q b p q c r
    let places: Vec<_> =
        locate(text, &[0, 1, 2, 3, 4, 5, 6, 7]).iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(1, 1), (1, 8), (1, 11), (2, 1), (1, 8), (1, 11), (3, 1), (3, 4)]);
}

#[test]
fn keys_are_text_and_off_is_no_boolean() {
    let node = parse("100: off\ntrue: no\n~: false").expect("valid");
    let Value::Map(entries) = node.value else { panic!("{node:?}") };
    let keys: Vec<_> = entries.iter().map(|(key, _)| &*key.text).collect();
    assert_eq!(keys, ["100", "true", "~"]);
    assert!(matches!(&entries[0].1.value, Value::Text(text) if text == "off"));
    assert!(matches!(&entries[1].1.value, Value::Text(text) if text == "no"));
    assert!(matches!(&entries[2].1.value, Value::Bool(false)));
}

#[test]
fn containers_are_found_at_their_key_or_first_scalar() {
    let node = parse("a: []\nb:\n- [x]\n- []\n").expect("valid");
    let Value::Map(entries) = &node.value else { panic!("{node:?}") };
    assert_eq!((node.site, entries[0].1.site, entries[1].1.site), (0, 0, 1));
    let Value::List(items) = &entries[1].1.value else { panic!("{node:?}") };
    assert_eq!((items[0].site, items[1].site), (2, 2));
}

#[test]
fn tags_do_not_derail_the_search() {
    let text = "a: !secret {b: c}\nd: !x [e]\nf: !y g\nh: i\n";
    // a !secret d !x f !y h i
    let places: Vec<_> =
        locate(text, &[1, 2, 3, 5, 6, 7]).iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(1, 4), (2, 1), (2, 4), (3, 4), (4, 1), (4, 4)]);
}

#[test]
fn syntax_errors_have_places() {
    for (text, message, line, column) in [
        ("a: [b\nc: d", "did not find expected ',' or ']'", 2, 2),
        ("a: b\n\tc: d", "found a tab character", 2, 1),
        ("a: *x", "unknown anchor", 1, 4),
        ("a: 1\n---\n b: 2\n", "more than one YAML document in the file", 3, 2),
        ("a: [2001:db8::]", "found unexpected ':'", 1, 14),
        ("{a: b}: c", "a simple key", 1, 1),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text:?}: {}", error.message);
        assert_eq!(
            (error.position.line, error.position.column),
            (line, column),
            "{text:?}: {}",
            error.message
        );
    }
}

#[test]
fn a_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let previous = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", [previous.as_str(); 10].join(", "));
    }
    parse(&text).expect_err("must not be expanded");
}

fn any_tree() -> impl Strategy<Value = serde_json::Value> {
    let name = "[a-z][a-z0-9./-]{0,8}";
    let leaf = prop_oneof![
        name.prop_map(serde_json::Value::from),
        any::<u16>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::vec((name, inner), 0..5)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn locates_whatever_is_there(tree in any_tree(), crlf in any::<bool>()) {
        let mut block = serde_yaml::to_string(&tree).expect("serialises");
        if crlf {
            block = block.replace('\n', "\r\n");
        }
        assert_located(&block);
        assert_located(&serde_json::to_string_pretty(&tree).expect("serialises"));
    }

    #[test]
    fn never_panics(text in "[a-c:,&*!{}\\[\\]\"'|> \n\t-]{0,40}") {
        if parse(&text).is_ok() {
            locate(&text, &[0, 1, 2, 5]);
        }
    }
}
