//! Escapes text from outside, so that it cannot control a terminal, break a line or change the
//! reading direction.

use std::borrow::Cow;

/// Whether a character must be escaped: control characters (C0, DEL, C1), marks of the reading
/// direction, line separators and characters without a width.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes `text` into one line, for example an escape character as `\u{1b}`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// As [`line()`], but keeps line feeds and tabs.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

/// Escapes the characters in a JSON text that terminals interpret and JSON itself leaves alone.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    replace(text, is_unsafe, |character, into| {
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            into.push_str(&format!("\\u{unit:04x}"));
        }
    })
}

/// Cuts `text` to `most` characters, with a mark at the cut.
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
    fn control_characters_are_escaped() {
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
