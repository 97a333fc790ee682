//! Firewall filters of Junos, as a configuration with braces or as `set` commands.

use std::collections::HashMap;

use super::error::ImportError;
use super::junos_term::{Statement, Term, rules};
use super::lists::{at, numbered};
use super::ranges::Ranges;
use super::rules::{Note, Ruleset, Then};
use crate::policy::{Action, Prefix};

/// Levels of braces.
const MAX_DEPTH: usize = 64;

/// Words of all statements, those of the levels around each included; and prefixes in all terms.
const MAX_STATEMENTS: usize = 50_000_000;

#[derive(Default)]
struct Filters<'a> {
    list: Vec<Filter<'a>>,
    names: HashMap<(bool, &'a str), usize>,
    lists: HashMap<&'a str, Vec<Prefix>>,
    notes: Vec<Note>,
    statements: usize,
}

struct Filter<'a> {
    name: &'a str,
    ipv6: bool,
    terms: Vec<Term<'a>>,
    names: HashMap<&'a str, usize>,
}

pub(super) fn parse(text: &str) -> Result<Vec<Ruleset>, ImportError> {
    let mut filters = Filters::default();
    if text.lines().any(is_set) {
        for (line, content) in numbered(text) {
            filters.command(line, content)?;
        }
    } else {
        filters.braces(text)?;
    }
    let lists = filters.lists.into_iter().map(|(name, prefixes)| {
        let family = |ipv6: bool| {
            prefixes.iter().copied().filter(|it| it.is_ipv6() == ipv6).collect::<Ranges>()
        };
        (name, [family(false), family(true)])
    });
    let lists = lists.collect();
    let (mut rulesets, mut work) = (Vec::new(), 0);
    for Filter { name, ipv6, terms, .. } in filters.list {
        let mut ruleset = Ruleset::new(name, [!ipv6, ipv6], Then::Deny(Action::Drop));
        for term in &terms {
            work += term.cost(&lists);
            if work > MAX_STATEMENTS {
                let what = "too many terms are about too many addresses";
                return Err(ImportError::TooComplex { what, limit: MAX_STATEMENTS });
            }
            match rules(term, ipv6, &lists) {
                Ok(rules) => ruleset.rules.extend(rules),
                Err(cause) => ruleset.notes.push(Note::lost(&at(term.line), term.name, cause)),
            }
        }
        rulesets.push(ruleset);
    }
    if let Some(first) = rulesets.first_mut() {
        first.notes.extend(filters.notes);
    }
    Ok(rulesets)
}

/// Whether a line is a `set` command about filters.
pub(super) fn is_set(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("set firewall ") || line.starts_with("set policy-options ")
}

impl<'a> Filters<'a> {
    fn command(&mut self, line: usize, content: &'a str) -> Result<(), ImportError> {
        let words = unquoted(content);
        match words.split_first() {
            Some((&"set", statement)) => {
                let statement: Vec<_> =
                    statement.iter().copied().filter(|word| !["[", "]"].contains(word)).collect();
                self.statement(line, &statement)
            }
            Some((&first, _)) if !first.starts_with('#') => {
                if ["deactivate", "delete", "insert", "rename"].contains(&first) {
                    let cause = "only `set` commands are read";
                    self.notes.push(Note::lost(&at(line), content, cause));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads a configuration with braces, statement by statement.
    fn braces(&mut self, text: &'a str) -> Result<(), ImportError> {
        let syntax = |line, message: &str| ImportError::Syntax { line, message: message.into() };
        let mut path: Vec<&str> = Vec::new();
        // Where the words of each open level start.
        let mut levels: Vec<usize> = Vec::new();
        let mut open = 0;
        for (line, token) in Tokens::new(text) {
            match token? {
                "{" => {
                    levels.push(open);
                    open = path.len();
                    if levels.len() > MAX_DEPTH {
                        return Err(syntax(line, "more than 64 levels of braces"));
                    }
                }
                "}" => {
                    let Some(before) = levels.pop() else {
                        return Err(syntax(line, "`}` without `{`"));
                    };
                    // A level without a statement, such as `then { }`, says nothing.
                    open = before;
                    path.truncate(open);
                }
                ";" => {
                    self.statement(line, &path)?;
                    path.truncate(open);
                }
                "[" | "]" => {}
                word if path.len() < 4096 => path.push(word),
                _ => return Err(syntax(line, "a statement has more than 4096 words")),
            }
        }
        match levels.len() {
            0 => Ok(()),
            _ => Err(syntax(text.lines().count(), "the input ends inside of `{`")),
        }
    }

    /// `firewall [family F] filter NAME term NAME (from|then) …`, or an entry of a prefix list.
    fn statement(&mut self, line: usize, words: &[&'a str]) -> Result<(), ImportError> {
        self.statements += words.len() + 1;
        if self.statements > MAX_STATEMENTS {
            let what = "too many statements";
            return Err(ImportError::TooComplex { what, limit: MAX_STATEMENTS });
        }
        let position = |word: &str| words.iter().position(|found| *found == word);
        if let Some(start) = position("filter")
            && let [name, "term", term, part @ ..] = &words[start + 1..]
        {
            if words.contains(&"inactive:") {
                return Ok(());
            }
            let ipv6 = start > 0 && words[start - 1] == "inet6";
            let term = self.filter(name, ipv6).term(term, line);
            match part {
                ["from", condition, values @ ..] => {
                    let values = values.to_vec();
                    term.from.push(Statement { line, word: condition, values });
                }
                ["then", action, values @ ..] => {
                    let values = values.to_vec();
                    term.then.push(Statement { line, word: action, values });
                }
                [] => {}
                [other, ..] => term.unknown = Some(other),
            }
        } else if let Some(start) = position("prefix-list")
            && start <= 1
            && let [name, entries @ ..] = &words[start + 1..]
        {
            let list = self.lists.entry(name).or_default();
            for entry in entries {
                match entry.parse::<Prefix>() {
                    Ok(prefix) => list.push(prefix),
                    Err(error) => {
                        self.notes.push(Note::lost(&at(line), entry, error.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn filter(&mut self, name: &'a str, ipv6: bool) -> &mut Filter<'a> {
        let index = *self.names.entry((ipv6, name)).or_insert_with(|| {
            self.list.push(Filter { name, ipv6, terms: Vec::new(), names: HashMap::new() });
            self.list.len() - 1
        });
        &mut self.list[index]
    }
}

impl<'a> Filter<'a> {
    fn term(&mut self, name: &'a str, line: usize) -> &mut Term<'a> {
        let index = *self.names.entry(name).or_insert_with(|| {
            self.terms.push(Term::new(name, line));
            self.terms.len() - 1
        });
        &mut self.terms[index]
    }
}

/// The words of a command. A text in quotes is one word.
fn unquoted(content: &str) -> Vec<&str> {
    Tokens::new(content).filter_map(|(_, token)| token.ok()).filter(|token| *token != ";").collect()
}

/// Words, braces, brackets and semicolons, each with its line. Comments are left out.
struct Tokens<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Takes text up to and with `end`.
    fn until(&mut self, start: usize, end: &str) -> Option<&'a str> {
        let found = self.rest.get(start..)?.find(end)?;
        Some(self.take(start + found + end.len()))
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, Result<&'a str, ImportError>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            let line = self.line;
            let unclosed = |what: &str| {
                let message = format!("{what} does not end");
                Some((line, Err(ImportError::Syntax { line, message })))
            };
            let first = self.rest.chars().next()?;
            if first == '#' {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.take(end);
            } else if self.rest.starts_with("/*") {
                if self.until(2, "*/").is_none() {
                    self.rest = "";
                    return unclosed("a comment");
                }
            } else if first == '"' {
                let Some(text) = self.until(1, "\"") else {
                    self.rest = "";
                    return unclosed("a text in quotes");
                };
                return Some((line, Ok(&text[1..text.len() - 1])));
            } else if "{}[];".contains(first) {
                return Some((line, Ok(self.take(1))));
            } else {
                let is_end = |letter: char| letter.is_whitespace() || "{}[];".contains(letter);
                let end = self.rest.find(is_end).unwrap_or(self.rest.len());
                return Some((line, Ok(self.take(end))));
            }
        }
    }
}
