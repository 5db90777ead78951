//! The settings while they are read.

use super::Settings;

/// It also has values that become settings only together with others.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Most values are stored here directly.
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
