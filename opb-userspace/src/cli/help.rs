//! The text of `opb --help`: the commands in groups, generated from the commands themselves.

use clap::Command;

/// The headings of `opb --help`, and the commands under each.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Look before", &["check", "diff", "explain", "replay", "import"]),
    ("Run", &["run", "detach", "doctor"]),
    ("Change", &["reload", "confirm", "rollback", "subscriber", "session", "bypass"]),
    ("Watch", &["status", "history", "counters", "top", "events"]),
];

/// Returns `command` with a help template that lists its subcommands in [`GROUPS`]. clap itself
/// groups only options.
pub(super) fn grouped(command: Command) -> Command {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let names = command.get_subcommands().map(|subcommand| subcommand.get_name().len());
    let width = names.max().unwrap_or(0);
    let mut template = "{about-with-newline}\n{usage-heading} {usage}\n\n".to_owned();
    for (group, names) in GROUPS {
        template += &format!("{header}{group}:{header:#}\n");
        for subcommand in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let name = subcommand.get_name();
            let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
            template += &format!("  {literal}{name:width$}{literal:#}  {about}\n");
        }
        template.push('\n');
    }
    template += &format!("{header}Options:{header:#}\n{{options}}{{after-help}}");
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Arguments;

    /// All commands, with those below `subscriber` and others, and their names.
    fn commands() -> Vec<(String, Command)> {
        let mut commands = Vec::new();
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            commands.push((name.to_owned(), command.clone()));
            for below in command.get_subcommands() {
                commands.push((format!("{name} {}", below.get_name()), below.clone()));
            }
        }
        commands
    }

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter()).collect();
        let arguments = Arguments::command();
        let mut names: Vec<_> = arguments.get_subcommands().map(Command::get_name).collect();
        grouped.sort();
        names.sort_unstable();
        assert!(grouped.into_iter().eq(&names), "{names:?}");
    }

    #[test]
    fn every_first_line_is_short() {
        for (name, command) in commands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!((1..70).contains(&about.len()), "{name}: {about:?}");
            let verb = about.split(' ').next().unwrap_or_default();
            assert!(!verb.ends_with('s'), "{name}: not imperative: {about:?}");
        }
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        for (name, command) in commands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = text.strip_prefix("Example:\n").unwrap_or_default();
            let examples = examples.replace("\\\n", " ");
            assert!(!examples.is_empty(), "{name}: no example: {text:?}");
            for example in examples.lines() {
                let words: Vec<_> = example.split_whitespace().collect();
                assert!(words.join(" ").starts_with(&format!("opb {name}")), "{name}: {example}");
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{name}: {example}: {error}");
                }
            }
        }
    }
}
