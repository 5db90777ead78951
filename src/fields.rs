//! Reading fields out of JSON that came from outside; problems name the field and never quote its value, which may be personal.

use serde_json::{Map, Value};

/// The fields of a JSON object.
pub type Fields = Map<String, Value>;

/// Reads a body that has to be a JSON object.
///
/// # Errors
/// What it is instead.
pub fn object(body: &[u8]) -> Result<Fields, &'static str> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it is not a JSON object"),
        Err(_) => Err("it is not JSON"),
    }
}

/// A field unless it is absent or null.
#[must_use]
pub fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A field that has to be there and be a whole number.
///
/// # Errors
/// What is wrong with it.
pub fn integer(fields: &Fields, name: &str) -> Result<i64, String> {
    present(fields, name)
        .ok_or_else(|| format!("{name} is missing"))?
        .as_i64()
        .ok_or_else(|| format!("{name} is not a whole number of 64 bits"))
}

/// A field that has to be there and be a string that is not empty.
///
/// # Errors
/// What is wrong with it.
pub fn text<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, String> {
    let text = present(fields, name)
        .ok_or_else(|| format!("{name} is missing"))?
        .as_str()
        .ok_or_else(|| format!("{name} is not a string"))?;
    if text.is_empty() {
        Err(format!("{name} is empty"))
    } else {
        Ok(text)
    }
}
