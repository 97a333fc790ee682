//! The type of an unquoted scalar: YAML 1.2.2, section 10.3.2, with two differences that
//! `serde_yaml` has as well.
//!
//! `010` is text, because readers of YAML 1.1 take it for eight; `0b1` is a number.

use std::borrow::Cow;

use super::Value;

pub(super) fn resolve(text: Cow<'_, str>) -> Value<'_> {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(&text).unwrap_or(Value::Text(text))
}

fn number(text: &str) -> Option<Value<'static>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let (radix, digits) = match unsigned.get(..2) {
        Some("0x") => (16, &unsigned[2..]),
        Some("0o") => (8, &unsigned[2..]),
        Some("0b") => (2, &unsigned[2..]),
        _ => (10, unsigned),
    };
    if !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix)) {
        if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        let sign = if text.starts_with('-') { "-" } else { "" };
        let integer = i64::from_str_radix(&format!("{sign}{digits}"), radix);
        return Some(integer.map_or(Value::Huge, Value::Int));
    }
    let is_special =
        matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    // Rust also reads `1e999`, as infinity.
    let is_float = is_special || unsigned.parse::<f64>().is_ok_and(f64::is_finite);
    is_float.then_some(Value::Float)
}
