//! Reads the wanted fields of a JSON object that came from outside.
//!
//! Other fields are skipped without being built, so an answer takes no more memory than its bytes. Errors name the
//! field but never quote its value, which may be personal.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::Deserializer;
use serde_json::value::RawValue;

/// The wanted fields of a JSON object, as raw JSON.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(&'static str, &'a RawValue)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnObject {
    #[error("the body is empty")]
    Empty,
    #[error("the body is not a JSON object")]
    OtherJson,
    #[error("the body is not JSON")]
    NotJson,
}

impl<'a> Fields<'a> {
    /// Reads the `wanted` fields of a body. A leading byte order mark is skipped.
    pub fn of(body: &'a [u8], wanted: &'static [&'static str]) -> Result<Self, NotAnObject> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let body = body.trim_ascii();
        if body.is_empty() || body == b"null" {
            return Err(NotAnObject::Empty);
        }
        let mut json = Deserializer::from_slice(body);
        if body.first() != Some(&b'{') {
            let is_json = IgnoredAny::deserialize(&mut json).is_ok() && json.end().is_ok();
            return Err(if is_json {
                NotAnObject::OtherJson
            } else {
                NotAnObject::NotJson
            });
        }
        let fields = json
            .deserialize_map(Wanted(wanted))
            .map_err(|_| NotAnObject::NotJson)?;
        json.end().map_err(|_| NotAnObject::NotJson)?;
        Ok(fields)
    }

    /// A field's raw JSON. `None` if it is absent or null.
    pub fn present(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().rev().find(|(other, _)| *other == name)?;
        Some(value.get()).filter(|value| *value != "null")
    }

    /// A field that must be a whole number. Its value counts: `345.0` and `3.45e2` are whole.
    pub fn integer(&self, name: &str) -> Result<i64, String> {
        whole(self.required(name)?).ok_or_else(|| format!("{name} is not a 64-bit whole number"))
    }

    pub fn text(&self, name: &str) -> Result<String, String> {
        match string(self.required(name)?) {
            None => Err(format!("{name} is not a string")),
            Some(text) if text.is_empty() => Err(format!("{name} is empty")),
            Some(text) => Ok(text),
        }
    }

    /// A field that may be absent. Otherwise it must be a string, which may be empty.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.present(name);
        let text =
            value.map(|value| string(value).ok_or_else(|| format!("{name} is not a string")));
        text.transpose()
    }

    /// A field that may be absent, which means false. Otherwise it must be a boolean.
    pub fn boolean(&self, name: &str) -> Result<bool, String> {
        match self.present(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("{name} is not a boolean")),
        }
    }

    fn required(&self, name: &str) -> Result<&'a str, String> {
        self.present(name)
            .ok_or_else(|| format!("{name} is missing"))
    }
}

fn string(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// A number with a whole value. From 2^53 on, floating-point numbers skip whole numbers, so those are not accepted in
/// that form.
fn whole(json: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = serde_json::from_str(json) {
        return Some(number);
    }
    let number: f64 = serde_json::from_str(json).ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole and below 2^53"
    )]
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
}

struct Wanted(&'static [&'static str]);

impl<'de> Visitor<'de> for Wanted {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::with_capacity(self.0.len());
        while let Some(name) = map.next_key::<&RawValue>()? {
            let name = name.get().trim_matches('"');
            match self.0.iter().find(|wanted| **wanted == name) {
                Some(wanted) => fields.push((*wanted, map.next_value()?)),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(json: &str) -> Result<i64, String> {
        let body = format!(r#"{{"id":{json}}}"#);
        Fields::of(body.as_bytes(), &["id"]).unwrap().integer("id")
    }

    #[test]
    fn a_number_is_whole_if_its_value_is() {
        #[rustfmt::skip]
        let cases = [
            ("345", Some(345)), ("345.0", Some(345)), ("1e2", Some(100)), ("-0.0", Some(0)), ("2.5e1", Some(25)),
            ("9223372036854775807", Some(i64::MAX)), ("9223372036854775808", None), ("1e15", Some(1_000_000_000_000_000)),
            ("1e16", None), ("1.5", None), ("1e400", None), ("\"345\"", None), ("true", None), ("[1]", None),
        ];
        for (json, value) in cases {
            assert_eq!(integer(json).ok(), value, "{json}");
        }
        assert_eq!(integer("null"), Err("id is missing".to_owned()));
    }

    #[test]
    fn other_fields_are_skipped_with_any_content() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for other in [
            deep.as_str(),
            r#""\ud800""#,
            "1e400",
            r#"{"id":2}"#,
            "\"\u{feff}\"",
        ] {
            for body in [
                format!(r#"{{"x":{other},"id":1}}"#),
                format!("\u{feff} {{\"id\":1,\"x\":{other}}} \n"),
            ] {
                let fields = Fields::of(body.as_bytes(), &["id"]).unwrap();
                assert_eq!(fields.integer("id"), Ok(1), "{body}");
            }
        }
    }

    #[test]
    fn an_empty_body_and_other_json_are_different_errors() {
        for (body, problem) in [
            ("", NotAnObject::Empty),
            (" \r\n", NotAnObject::Empty),
            ("null", NotAnObject::Empty),
            ("\u{feff}null", NotAnObject::Empty),
            ("[]", NotAnObject::OtherJson),
            ("7", NotAnObject::OtherJson),
            ("\"x\"", NotAnObject::OtherJson),
            ("<html>", NotAnObject::NotJson),
            ("{", NotAnObject::NotJson),
            (r#"{"id":1"#, NotAnObject::NotJson),
            (r#"{"id":1} x"#, NotAnObject::NotJson),
            ("\u{1f}\u{8b}\u{8}", NotAnObject::NotJson),
        ] {
            assert_eq!(
                Fields::of(body.as_bytes(), &["id"]).err(),
                Some(problem),
                "{body}"
            );
        }
    }

    #[test]
    fn text_and_booleans_name_what_is_wrong() {
        let body = br#"{"a":"x\u00e9","b":"","c":7,"d":true,"e":null,"f":"\ud800"}"#;
        let fields = Fields::of(body, &["a", "b", "c", "d", "e", "f"]).unwrap();
        assert_eq!(fields.text("a"), Ok("x\u{e9}".to_owned()));
        assert_eq!(fields.text("b"), Err("b is empty".to_owned()));
        assert_eq!(fields.text("f"), Err("f is not a string".to_owned()));
        assert_eq!(fields.optional_text("b"), Ok(Some(String::new())));
        assert_eq!(fields.optional_text("e"), Ok(None));
        assert_eq!(
            fields.optional_text("c"),
            Err("c is not a string".to_owned())
        );
        assert_eq!(fields.boolean("d"), Ok(true));
        assert_eq!(fields.boolean("e"), Ok(false));
        assert_eq!(fields.boolean("c"), Err("c is not a boolean".to_owned()));
    }
}
