//! The `config` subcommand: every setting, its value as far as it may be shown, and where that came from.

use super::Faults;
use super::reader::Layers;
use super::variables::{VARIABLES, Variable};

/// One line per variable, even if the settings are wrong.
///
/// # Errors
/// If the defaults cannot be read, which a test rules out.
pub fn listing(look_up: impl Fn(&str) -> Option<String>) -> Result<String, Faults> {
    let layers = Layers::new(look_up)?;
    let width = VARIABLES.iter().map(|variable| variable.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |variable: &Variable| {
        let name = variable.name;
        match layers.get(name) {
            None => format!("{name:width$}  not set\n"),
            // An address may hold a password.
            Some((text, origin)) if variable.is_secret || text.contains('@') => {
                format!("{name:width$}  hidden  ({origin})\n")
            }
            Some((text, origin)) => format!("{name:width$}  {text}  ({origin})\n"),
        }
    };
    Ok(VARIABLES.iter().map(line).collect())
}
