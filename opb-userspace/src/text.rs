//! Text that others wrote, made fit to be shown: nothing in it steers a terminal, breaks a line or turns the reading direction.

use std::borrow::Cow;

/// Characters that are not shown as they are: control characters (C0, DEL, C1), what changes the reading direction, line
/// separators, and what has no width of its own and hides between others.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` in one line, with `\u{1b}` in the place of an escape character and the like.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// The same, but lines stay lines and tabs stay tabs.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

/// JSON with what terminals would take for a control character, and JSON does not escape by itself, escaped.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    replace(text, is_unsafe, |character, into| {
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            into.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

/// At most `most` characters of `text`, and a mark where there are more.
#[must_use]
pub fn short(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_replaced = |character| is_unsafe(character) && !keep(character);
    replace(text, is_replaced, |character, into| into.extend(character.escape_unicode()))
}

fn replace(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replacement: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.chars().any(&is_replaced) {
        return text.into();
    }
    let mut replaced = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_replaced(character) {
            replacement(character, &mut replaced);
        } else {
            replaced.push(character);
        }
    }
    replaced.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        assert_eq!(line("\x1b[2Jgone\r\n\u{9b}1m"), "\\u{1b}[2Jgone\\u{d}\\u{a}\\u{9b}1m");
        assert_eq!(line("\u{202e}moc.elpmaxe\u{2066}\x7f"), "\\u{202e}moc.elpmaxe\\u{2066}\\u{7f}");
        assert_eq!(lines("a\n\tb\x07"), "a\n\tb\\u{7}");
        assert!(matches!(line("契約 1234, Müller & Söhne"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_json() {
        let text = "\u{9b}31m\u{202e}\u{e0041}";
        let escaped = serde_json::to_string(text).map(|it| json(&it).into_owned());
        let escaped = escaped.expect("a string");
        assert_eq!(escaped, r#""\u009b31m\u202e\udb40\udc41""#);
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("JSON"), text);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!((short("äöü", 3), short("äöü", 2)), ("äöü".into(), "äö…".into()));
    }
}
