//! The settings while they are read.

use super::Settings;

/// With values that only become settings together with others.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Where most values go at once.
    pub to: Settings,
    pub localstack_url: String,
    pub aws_url: Option<String>,
    pub instance: Option<String>,
    pub no_colours: bool,
    /// Names of addresses that are reached without encryption.
    pub open: Vec<&'static str>,
}

impl Draft {
    pub fn warn(&mut self, warning: &str) {
        self.to.warnings.push(warning.to_owned());
    }
}
