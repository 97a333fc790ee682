//! The listings of iptables-save and ip6tables-save (iptables-save(8)).

use super::{
    MAIL,
    chains::{Action, Base, Conditions, Rule, Ruleset, Step},
};

/// Adds the chains of those tables that `wants` names. `tool` is the tool in messages.
pub(super) fn parse(
    listing: &str,
    tool: &str,
    wants: impl Fn(&str) -> bool,
    ruleset: &mut Ruleset,
) {
    let mut table = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if !wants(table) {
            continue;
        } else if let Some(chain) = line.strip_prefix(':') {
            // `:FORWARD DROP [0:0]`; chains of one's own have `-`.
            let mut words = chain.split(' ');
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            let policy_name = || format!("{tool} table {table}, chain {name}: policy DROP");
            let base = (policy != "-").then(|| Base {
                hook: name.to_owned(),
                dropping: (policy == "DROP").then(policy_name),
            });
            ruleset.0.entry(key(table, name)).or_default().base = base;
        } else if line.starts_with("-A ") {
            let words = words(line);
            let Some(chain) = words.get(1) else { continue };
            let rule = rule(&words, table, format!("{tool} table {table}: {line}"));
            ruleset.0.entry(key(table, chain)).or_default().rules.push(rule);
        }
    }
}

fn key(table: &str, chain: &str) -> String {
    format!("{table}/{chain}")
}

fn rule(words: &[String], table: &str, name: String) -> Rule {
    let mut rule = Rule { name, ..Rule::default() };
    let mut conditions = Conditions::default();
    let mut action = None;
    let mut is_negated = false;
    for (index, word) in words.iter().enumerate() {
        let value = words.get(index + 1).map(String::as_str).unwrap_or_default();
        match word.as_str() {
            "!" => {
                is_negated = true;
                continue;
            }
            "-p" => {
                conditions.is_other_protocol |= ["tcp", "6", "all"].contains(&value) == is_negated;
            }
            "--dport" | "--dports" | "--destination-port" => {
                Conditions::add(&mut conditions.destination, has_mail(value) != is_negated);
            }
            "--sport" | "--sports" | "--source-port" => {
                Conditions::add(&mut conditions.source, has_mail(value) != is_negated);
            }
            // Either port.
            "--ports" if has_mail(value) != is_negated => conditions.destination = Some(true),
            "--ctstate" | "--state" => {
                let is_new = value.split(',').any(|state| state == "NEW" || state == "UNTRACKED");
                rule.is_for_established |= is_new == is_negated;
            }
            "-j" | "-g" => {
                action = Some(match value {
                    "DROP" | "REJECT" => Action::Deny,
                    "ACCEPT" => Action::Accept,
                    chain => Action::Visit(key(table, chain)),
                });
            }
            _ => {}
        }
        is_negated = false;
    }
    rule.steps.extend(action.map(|action| Step { ports: conditions.ports(), action }));
    rule
}

/// Whether `25`, `smtp`, `1:1024` or a list of these includes port 25.
fn has_mail(ports: &str) -> bool {
    ports.split(',').any(|part| {
        let (from, to) = part.split_once(':').unwrap_or((part, part));
        let number = |text: &str, otherwise: u16| match text {
            "" => Some(otherwise),
            "smtp" => Some(MAIL),
            _ => text.parse().ok(),
        };
        let (from, to) = (number(from, 0), number(to, u16::MAX));
        from.is_some_and(|from| from <= MAIL) && to.is_some_and(|to| MAIL <= to)
    })
}

/// The words of a line. Text in double quotes is one word; a backslash quotes the next character.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted) = (None::<String>, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::chains::Denials;

    fn denials(rules: &str) -> Vec<String> {
        let mut ruleset = Ruleset::default();
        let listing = format!("*filter\n{rules}\nCOMMIT\n");
        parse(&listing, "iptables", |_| true, &mut ruleset);
        let mut denials = Denials::default();
        denials.find(&ruleset);
        denials.0.into_iter().collect()
    }

    #[test]
    fn rules_on_port_25_are_found_and_others_are_not() {
        for (condition, is_found) in [
            ("-p tcp -m tcp --dport 25", true),
            ("-p tcp -m tcp --dport 1:1024", true),
            ("-p tcp -m tcp --dport 26:", false),
            ("-p tcp -m tcp --dport :25", true),
            ("-p tcp -m multiport --dports 80,25,443", true),
            ("-p tcp -m multiport --dports 80,443", false),
            ("-p tcp -m tcp ! --dport 80", true),
            ("-p tcp -m tcp ! --dport 25", false),
            ("-p tcp -m tcp --sport 25", true),
            ("-p tcp -m tcp --sport 1024:65535 --dport 25", true),
            ("-p udp -m udp --dport 25", false),
            ("-s 192.0.2.1/32", false),
            ("-m comment --comment \"see --dport 25\"", false),
            ("-p tcp -m comment --comment \"a \\\" b\" -m tcp --dport 25", true),
        ] {
            for target in ["DROP", "REJECT --reject-with tcp-reset"] {
                let rule = format!("-A FORWARD {condition} -j {target}");
                let found = denials(&format!(":FORWARD ACCEPT [0:0]\n{rule}"));
                let expected = format!("iptables table filter: {rule} (hook FORWARD)");
                assert_eq!(found == [expected], is_found, "{rule}: {found:?}");
            }
        }
    }

    #[test]
    fn only_chains_on_the_way_count_and_jumps_are_followed() {
        let rules = ":INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:mail - [0:0]\n:loop - [0:0]\n\
                     -A INPUT -p tcp -m tcp --dport 25 -j DROP\n\
                     -A mail -s 192.0.2.1/32 -j DROP\n-A mail -j loop\n-A loop -g mail\n";
        assert_eq!(denials(rules), Vec::<String>::new());
        let unconditional = format!("{rules}-A FORWARD -j mail");
        assert_eq!(denials(&unconditional), Vec::<String>::new());
        let found = denials(&format!("{rules}-A FORWARD -p tcp -m tcp --dport 25 -j mail"));
        let rule = "-A mail -s 192.0.2.1/32 -j DROP (hook FORWARD)";
        assert_eq!(found, [format!("iptables table filter: {rule}")]);
    }

    #[test]
    fn a_policy_of_drop_counts_unless_a_rule_accepts_mail() {
        let base = ":FORWARD DROP [0:0]\n-A FORWARD -p tcp -m tcp --dport 443 -j ACCEPT\n\
                    -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        assert_eq!(denials(base), ["iptables table filter, chain FORWARD: policy DROP"]);
        for accepting in ["-A FORWARD -i lan0 -j ACCEPT", "-A FORWARD -p tcp --dport 25 -j ACCEPT"]
        {
            assert_eq!(denials(&format!("{base}{accepting}")), Vec::<String>::new());
        }
    }
}
