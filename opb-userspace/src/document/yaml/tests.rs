//! Places are checked against the text itself, values against `serde_yaml`, a reader of another
//! origin.

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
            for (key, value) in entries.iter() {
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
    assert_eq!(locate(text, &[all[3].0]), [Position { line: 1, column: 12 }]);
}

fn places(text: &str, sites: &[Site]) -> Vec<(usize, usize)> {
    locate(text, sites).iter().map(|place| (place.line, place.column)).collect()
}

/// The entries of a text that is a map.
fn entries(text: &str) -> Rc<Vec<(Key<'_>, YamlNode<'_>)>> {
    let node = parse(text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let Value::Map(entries) = node.value else { panic!("{node:?}") };
    entries
}

#[test]
fn an_alias_is_found_at_its_anchor() {
    let text = "a: &x [p, q]\nb: *x\nc: &y r\nd: *y\n";
    let entries = entries(text);
    let Value::List(items) = &entries[1].1.value else { panic!("{entries:?}") };
    let sites = [items[0].site, items[1].site, entries[1].1.site, entries[2].1.site];
    assert_eq!(places(text, &sites), [(1, 8), (1, 11), (2, 1), (3, 7)]);
    assert_eq!(entries[3].1.site, entries[2].1.site);
}

#[test]
fn keys_are_text_and_off_is_no_boolean() {
    let entries = entries("100: off\ntrue: no\n~: false\n&k e: 1\nx: *k\n");
    let keys: Vec<_> = entries.iter().map(|(key, _)| &*key.text).collect();
    assert_eq!(keys, ["100", "true", "~", "e", "x"]);
    assert!(matches!(&entries[0].1.value, Value::Text(text) if text == "off"));
    assert!(matches!(&entries[1].1.value, Value::Text(text) if text == "no"));
    assert!(matches!(&entries[2].1.value, Value::Bool(false)));
    assert!(matches!(&entries[4].1.value, Value::Text(text) if text == "e"));
}

#[test]
fn an_alias_is_text_as_a_key_and_has_its_type_as_a_value() {
    let entries = entries("&n 100: &b true\nx: *n\ny: *b\nz: {*b : &e , *n : *e }\n");
    assert!(matches!(&entries[1].1.value, Value::Int(100)));
    assert!(matches!(&entries[2].1.value, Value::Bool(true)));
    let Value::Map(map) = &entries[3].1.value else { panic!("{entries:?}") };
    assert_eq!([&*map[0].0.text, &*map[1].0.text], ["true", "100"]);
    assert!(matches!(&map[1].1.value, Value::Null));
}

#[test]
fn scalars_have_the_types_of_the_core_schema() {
    let value = |text: &str| match &entries(&format!("a: {text}"))[0].1.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        other => other.kind().to_owned(),
    };
    for (text, expected) in [
        ("", "null"),
        ("NULL", "null"),
        ("nULL", "\"nULL\""),
        ("True", "true"),
        ("25", "25"),
        ("+25", "25"),
        ("-0x1F", "-31"),
        ("0o17", "15"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "a number of this size"),
        ("1111111111111111111111111111111111111111111111111", "a number of this size"),
        ("010", "\"010\""),
        ("0x", "\"0x\""),
        ("--1", "\"--1\""),
        ("1_000", "\"1_000\""),
        ("1.5", "a fraction"),
        ("1e3", "a fraction"),
        ("-.inf", "a fraction"),
        ("1e999", "\"1e999\""),
        ("inf", "\"inf\""),
        ("NaN", "\"NaN\""),
        ("'25'", "\"25\""),
        ("! 25", "\"25\""),
        ("!!str 25", "\"25\""),
        ("!!int '25'", "25"),
        ("!!int x", "a tagged value"),
        ("!x 25", "a tagged value"),
        ("!!seq [1]", "a list"),
        ("!!map [1]", "a tagged value"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn containers_are_found_at_their_key_or_their_start() {
    let text = "a: []\nb:\n- [x]\n- y: z\n- []\n";
    let entries = entries(text);
    let Value::List(items) = &entries[1].1.value else { panic!("{entries:?}") };
    assert_eq!(places(text, &[entries[0].1.site, entries[1].1.site]), [(1, 1), (2, 1)]);
    let sites: Vec<Site> = items.iter().map(|item| item.site).collect();
    assert_eq!(places(text, &sites), [(3, 3), (4, 3), (5, 3)]);
}

#[test]
fn a_tagged_value_is_found_at_its_tag_and_a_missing_one_after_its_key() {
    let text = "a: !secret {b: c}\nd: !x [e]\nf: &y !y g\nh:\ni:\n- !z\n-\n";
    let entries = entries(text);
    let Value::List(items) = &entries[4].1.value else { panic!("{entries:?}") };
    let sites: Vec<Site> = entries[..4]
        .iter()
        .map(|(_, node)| node)
        .chain(&items[..1])
        .map(|node| node.site)
        .collect();
    assert_eq!(places(text, &sites), [(1, 4), (2, 4), (3, 7), (4, 3), (6, 3)]);
}

#[test]
fn syntax_errors_have_places() {
    for (text, message, line, column) in [
        ("a: [b\nc: d", "unexpected `:`, in the list at line 1 column 4", 2, 2),
        ("a: b\n\tc: d", "found a tab", 1, 4),
        ("a:\n\t- b", "tabs cannot indent a list or map", 2, 1),
        ("a: *x", "unknown anchor", 1, 4),
        ("a: &x [*x]", "the alias is inside the node that it names", 1, 8),
        ("a: 1\n---\n b: 2\n", "more than one YAML document in the file", 2, 1),
        ("a: 'b", "unclosed quote", 1, 4),
        ("a: [b, c", "unclosed bracket '['", 1, 4),
        ("{a: b}: c", "a key must be text, not a map", 1, 1),
        ("a: &x [b]\n*x : c", "a key must be text, not a list", 2, 1),
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

/// The reason why a text is refused.
fn refusal(text: &str) -> Option<String> {
    parse(text).err().map(|error| error.message)
}

#[test]
fn depth_is_counted_in_both_styles() {
    let flow = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let block = |depth: usize| format!("{}x", "- ".repeat(depth));
    let mixed = |depth: usize| format!("{}{}", "- ".repeat(depth - 20), flow(20));
    for text in [flow(tree::DEPTH), block(tree::DEPTH), mixed(tree::DEPTH), "[[]]\n".to_owned()] {
        assert_eq!(refusal(&text), None);
    }
    let deeper = tree::DEPTH + 1;
    for text in [flow(deeper), block(deeper), mixed(deeper), "{a: ".repeat(deeper)] {
        assert!(refusal(&text).is_some_and(|it| it.starts_with("more than 32 lists")), "{text}");
    }
    // One after the other is not within each other.
    assert_eq!(refusal(&format!("[{}]", "[[1]],".repeat(1000))), None);
    assert_eq!(refusal(&"- '['\n".repeat(1000)), None);
    let error = parse(&format!("a: 1\nb: {}", "[".repeat(deeper))).expect_err("too deep");
    assert_eq!((error.position.line, error.position.column), (2, 4 + tree::DEPTH));
}

#[test]
fn what_aliases_stand_for_is_counted() {
    let many = |count: usize| format!("a: &a [{}]\nb: *a\nc: &c [*a, *a]\n", "[],".repeat(count));
    assert_eq!(refusal(&many(1000)), None);
    assert!(refusal(&many(40_000)).is_some_and(|it| it.ends_with("100000 values")));
    let mut bomb = "a0: &a0 [[],[]]\n".to_owned();
    for step in 0..40 {
        bomb += &format!("a{0}: &a{0} [*a{1},*a{1}]\n", step + 1, step);
    }
    assert!(refusal(&bomb).is_some_and(|it| it.ends_with("100000 values")));
    let anchors: String = (0..=tree::ANCHORS).map(|number| format!("- &a{number} x\n")).collect();
    assert!(refusal(&anchors).is_some_and(|it| it.ends_with("anchors")));
    // Each of a thousand aliases would be a copy of a megabyte.
    let text = format!("- &a \"{}\"\n{}", "\\x41".repeat(1_000_000), "- *a\n".repeat(1000));
    assert!(refusal(&text).is_some_and(|it| it.ends_with("8000000 bytes of text")));
}

#[test]
fn directives_are_few() {
    let directives: String = (0..10).map(|number| format!("%TAG !{number}! x\n")).collect();
    assert_eq!(refusal(&directives).as_deref(), Some("too many directives"));
    assert_eq!(refusal("%YAML 1.2\n---\nversion: 1\n"), None);
}

/// Whether both readers understood the same. `serde_yaml` cannot say what a key was before it was
/// text.
fn agree(ours: &YamlNode<'_>, theirs: &serde_yaml::Value) -> bool {
    use serde_yaml::Value as Theirs;
    match (&ours.value, theirs) {
        // `serde_yaml` keeps `!`, which says that a scalar is text (YAML 1.2.2, section 6.9.1).
        (Value::Text(_), Theirs::Tagged(theirs)) if theirs.tag == "!" => true,
        (Value::List(_) | Value::Map(_), Theirs::Tagged(theirs)) if theirs.tag == "!" => {
            agree(ours, &theirs.value)
        }
        (Value::Null, Theirs::Null) | (Value::Tagged, Theirs::Tagged(_)) => true,
        (Value::Bool(ours), Theirs::Bool(theirs)) => ours == theirs,
        (Value::Int(ours), Theirs::Number(theirs)) => theirs.as_i64() == Some(*ours),
        (Value::Float | Value::Huge, Theirs::Number(theirs)) => theirs.as_i64().is_none(),
        (Value::Text(ours), Theirs::String(theirs)) => ours == theirs,
        (Value::List(ours), Theirs::Sequence(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| agree(a, b))
        }
        (Value::Map(ours), Theirs::Mapping(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|((key, a), (other, b))| {
                    other.as_str().is_none_or(|other| other == key.text) && agree(a, b)
                })
        }
        _ => false,
    }
}

/// Whether a name of an anchor may have a character that only YAML 1.2 takes for a part of it:
/// `serde_yaml` ends a name at the first that is no letter, digit, `-` or `_`.
fn has_wide_name(text: &str) -> bool {
    text.split(['&', '*']).skip(1).any(|rest| {
        rest.find(|it: char| !it.is_ascii_alphanumeric() && !matches!(it, '-' | '_'))
            .is_some_and(|end| !rest[end..].starts_with([' ', '\t', '\n', ',', ']', '}', '[', '{']))
    })
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

    /// Neither reader may understand a text in another way than the other: the prefix of one would
    /// not be that of the other. The texts have none of the line ends of YAML 1.1 alone.
    #[test]
    fn never_panics_and_agrees_with_serde_yaml(
        text in "([a-c:,&*!{}\\[\\]\"'|> \n\t#-]|: |- |\n- |\n  |[&*]a |[0-9]){0,24}"
    ) {
        let Ok(ours) = parse(&text) else { return Ok(()) };
        locate(&text, &[0, 1, 2, 5]);
        if has_wide_name(&text) {
            return Ok(());
        }
        let Ok(theirs) = serde_yaml::from_str::<serde_yaml::Value>(&text) else { return Ok(()) };
        prop_assert!(agree(&ours, &theirs), "{text:?}: {ours:?} {theirs:?}");
    }
}
