//! The outages that the page can switch on and off: sets of faults, each with a name by which it is ended.

use std::time::Duration;

use crate::auth::Auth;
use crate::faults::{Endpoint, Fault, Faults, Rule};

/// Longer than the service waits for a health check, but shorter than it waits for a call.
const SLOW: Duration = Duration::from_secs(3);

const PUBLISHING: &[Endpoint] = &[Endpoint::Publish, Endpoint::PublishBatch];

/// The stand-in that an outage affects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Community,
    Auth,
    Sns,
}

impl System {
    pub(super) const ALL: [Self; 3] = [Self::Community, Self::Auth, Self::Sns];

    /// In the id of its heading.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Community => "community",
            Self::Auth => "auth",
            Self::Sns => "sns",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Community => "community-api",
            Self::Auth => "hmpps-auth",
            Self::Sns => "SNS",
        }
    }
}

pub(super) struct Outage {
    /// The name in URLs, and in the rules.
    pub(super) name: &'static str,
    pub(super) system: System,
    pub(super) title: &'static str,
    /// What the service is expected to do.
    pub(super) effect: &'static str,
    endpoints: &'static [Endpoint],
    /// The percentage of calls that fail.
    percent: u8,
    fault: fn() -> Fault,
}

pub(super) const OUTAGES: &[Outage] = &[
    Outage {
        name: "community-down",
        system: System::Community,
        title: "Down",
        effect: "It closes connections. New rows wait. The service retries the rows it holds.",
        endpoints: Endpoint::COMMUNITY,
        percent: 100,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "community-slow",
        system: System::Community,
        title: "Slow",
        effect: "Each call takes 3 seconds. Changes arrive late, and the health check fails.",
        endpoints: Endpoint::COMMUNITY,
        percent: 100,
        fault: || Fault::Latency(SLOW),
    },
    Outage {
        name: "identifiers-not-found",
        system: System::Community,
        title: "Identifiers answer 404",
        effect: "The service leaves the row locked. If the answer is the same when the lock expires, it marks the row as FAILED.",
        endpoints: &[Endpoint::Identifiers],
        percent: 100,
        fault: || Fault::status(404),
    },
    Outage {
        name: "next-update-conflict",
        system: System::Community,
        title: "nextUpdate answers 409",
        effect: "Other callers always lock the row first. The service does not count this as a failure. Rows wait.",
        endpoints: &[Endpoint::NextUpdate],
        percent: 100,
        fault: || Fault::status(409),
    },
    Outage {
        name: "settling-races",
        system: System::Community,
        title: "Deleting and marking race with another change",
        effect: "Half of the calls that delete or mark a row answer 500. The service tries again.",
        endpoints: &[Endpoint::DeleteUpdate, Endpoint::MarkAsFailed],
        percent: 50,
        fault: || Fault::Race,
    },
    Outage {
        name: "auth-down",
        system: System::Auth,
        title: "Down",
        effect: "It closes connections, and refuses the tokens that it has issued. The service cannot claim rows.",
        endpoints: Endpoint::AUTH,
        percent: 100,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "auth-refuses",
        system: System::Auth,
        title: "Refuses the client",
        effect: "It answers 401, and refuses the tokens that it has issued. Health stays UP, but the service cannot claim rows.",
        endpoints: &[Endpoint::Token],
        percent: 100,
        fault: || Fault::status(401),
    },
    Outage {
        name: "sns-down",
        system: System::Sns,
        title: "Down",
        effect: "The service holds its rows and retries them. It claims only a few more.",
        endpoints: Endpoint::SNS,
        percent: 100,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "sns-slow",
        system: System::Sns,
        title: "Slow",
        effect: "Each call takes 3 seconds. The service works on more rows at once.",
        endpoints: Endpoint::SNS,
        percent: 100,
        fault: || Fault::Latency(SLOW),
    },
    Outage {
        name: "sns-entry",
        system: System::Sns,
        title: "One entry of a batch fails",
        effect: "SNS refuses the first event of each batch. The service sends only that one again.",
        endpoints: PUBLISHING,
        percent: 100,
        fault: || Fault::SnsEntryError {
            entry: Some(0),
            code: "InternalError".into(),
            sender_fault: false,
        },
    },
    Outage {
        name: "sns-throttled",
        system: System::Sns,
        title: "Throttled",
        effect: "SNS refuses each publish. The service retries it, less and less often.",
        endpoints: PUBLISHING,
        percent: 100,
        fault: || Fault::sns(400, "Throttling"),
    },
];

impl Outage {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        OUTAGES.iter().find(|outage| outage.name == name)
    }

    pub(super) fn is_on(&self, faults: &Faults) -> bool {
        faults.is_out(self.name)
    }

    pub(super) fn switch(&self, on: bool, faults: &Faults, auth: &Auth) {
        faults.end_outage(self.name);
        if !on {
            return;
        }
        for endpoint in self.endpoints {
            faults.inject(Rule {
                outage: Some(self.name),
                probability: f64::from(self.percent) / 100.0,
                ..Rule::new(*endpoint, (self.fault)())
            });
        }
        if self.system == System::Auth {
            auth.revoke_all();
        }
    }
}
