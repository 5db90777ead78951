//! The `config` subcommand: every setting, its value as far as it may be shown, and where that came from.

use super::Faults;
use super::reader::Reader;
use super::variables::VARIABLES;

/// Every variable in a line of its own, whether or not the settings could work.
///
/// # Errors
/// If the embedded defaults cannot be read, which a test rules out.
pub fn listing(look_up: impl Fn(&str) -> Option<Result<String, String>>) -> Result<String, Faults> {
    let reader = Reader::new(look_up)?;
    let width = VARIABLES.iter().map(|variable| variable.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |name: &str, secret: bool| {
        let Some(value) = reader.optional(name) else {
            return format!("{name:width$}  not set\n");
        };
        let origin = reader.origin(name);
        // An address may hold a password.
        if secret || value.contains('@') {
            format!("{name:width$}  hidden  ({origin})\n")
        } else {
            format!("{name:width$}  {value}  ({origin})\n")
        }
    };
    let lines = VARIABLES
        .iter()
        .map(|variable| line(variable.name, variable.secret));
    Ok(lines.collect())
}
