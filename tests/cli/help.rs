//! `--help`: the groups of commands, and an example for each. Whether the examples parse is tested
//! where the arguments are defined (`cli/help.rs`).

use std::collections::BTreeMap;

use crate::Bench;

const MANUAL: &str = include_str!("../../docs/cli.md");

/// The commands under each heading of a help text, with their first lines.
fn groups(help: &str) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    let mut group = "";
    for line in help.lines() {
        match (line.strip_suffix(':'), line.strip_prefix("  ")) {
            (Some(heading), None) => group = heading,
            (_, Some(row)) => groups.entry(group).or_default().extend(row.split_once(' ')),
            _ => {}
        }
    }
    groups.remove("Options");
    groups
}

fn help(bench: &Bench, command: &[&str]) -> String {
    let ended = bench.opb(&[command, &["--help"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command:?}");
    ended.stdout
}

#[test]
fn help_lists_every_command_of_the_manual_in_one_group() {
    let text = help(&Bench::new(), &[]);
    let groups = groups(&text);
    assert!(groups.keys().eq(&["Change", "Look before", "Run", "Watch"]), "{text}");
    let mut listed: Vec<_> = groups.values().flatten().map(|(name, _)| *name).collect();
    let headings = MANUAL.lines().filter_map(|line| line.strip_prefix("## `opb "));
    let mut manual: Vec<_> = headings.filter_map(|line| line.split([' ', '`']).next()).collect();
    listed.sort_unstable();
    manual.sort_unstable();
    assert_eq!(listed, manual);
}

#[test]
fn the_help_of_every_command_ends_with_an_example() {
    let bench = Bench::new();
    let (top, subscriber) = (help(&bench, &[]), help(&bench, &["subscriber"]));
    let mut commands = Vec::new();
    for (name, about) in groups(&top).into_values().flatten() {
        commands.push((vec![name], about));
    }
    let below = groups(&subscriber).remove("Commands").unwrap_or_default();
    assert_eq!(below.len(), 4, "{subscriber}");
    commands.extend(below.into_iter().map(|(name, about)| (vec!["subscriber", name], about)));
    for (command, about) in commands {
        let text = help(&bench, &command);
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, about.trim(), "{command:?}");
        assert!((1..70).contains(&first.len()), "{command:?}: {first}");
        let (_, example) = text.split_once("\nExample:\n").unwrap_or_default();
        let start = format!("  opb {}", command.join(" "));
        assert!(example.lines().all(|line| line.starts_with(&start)), "{command:?}: {text}");
        assert!(!example.is_empty(), "{command:?}: {text}");
    }
}
