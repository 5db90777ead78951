//! The outages that the page can switch on and off: sets of faults, each with a name that it ends by.

use std::time::Duration;

use crate::auth::Auth;
use crate::faults::{Endpoint, Fault, Faults, Rule};

/// Longer than the service waits for a health check, shorter than for a call.
const SLOW: Duration = Duration::from_secs(3);

const COMMUNITY: &[Endpoint] = &[
    Endpoint::NextUpdate,
    Endpoint::Identifiers,
    Endpoint::DeleteUpdate,
    Endpoint::MarkAsFailed,
    Endpoint::CommunityPing,
];
const AUTH: &[Endpoint] = &[Endpoint::Token, Endpoint::AuthPing];
const PUBLISHING: &[Endpoint] = &[Endpoint::Publish, Endpoint::PublishBatch];
const SNS: &[Endpoint] = &[
    Endpoint::Publish,
    Endpoint::PublishBatch,
    Endpoint::TopicAttributes,
];

/// Which stand-in an outage is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Community,
    Auth,
    Sns,
}

impl System {
    pub(super) const ALL: [Self; 3] = [Self::Community, Self::Auth, Self::Sns];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Community => "community-api",
            Self::Auth => "hmpps-auth",
            Self::Sns => "SNS",
        }
    }
}

pub(super) struct Outage {
    /// In addresses, and in the rules.
    pub(super) name: &'static str,
    pub(super) system: System,
    pub(super) title: &'static str,
    /// What the service is to make of it.
    pub(super) effect: &'static str,
    endpoints: &'static [Endpoint],
    fault: fn() -> Fault,
}

pub(super) const OUTAGES: &[Outage] = &[
    Outage {
        name: "community-down",
        system: System::Community,
        title: "Down",
        effect: "Connections are closed. Rows wait in Delius; a row in hand is tried again inside its lease.",
        endpoints: COMMUNITY,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "community-slow",
        system: System::Community,
        title: "Slow",
        effect: "Each call takes 3 seconds: changes arrive late, and its health check fails.",
        endpoints: COMMUNITY,
        fault: || Fault::Latency(SLOW),
    },
    Outage {
        name: "identifiers-not-found",
        system: System::Community,
        title: "Identifiers answer 404",
        effect: "A row is left locked, and given up (FAILED) if it is still so when the lock runs out.",
        endpoints: &[Endpoint::Identifiers],
        fault: || Fault::status(404),
    },
    Outage {
        name: "next-update-conflict",
        system: System::Community,
        title: "nextUpdate answers 409",
        effect: "Other callers always win the lock: a nuisance, no fault. Rows wait.",
        endpoints: &[Endpoint::NextUpdate],
        fault: || Fault::status(409),
    },
    Outage {
        name: "auth-down",
        system: System::Auth,
        title: "Down",
        effect: "Connections are closed, and the tokens issued so far are void, so that it is felt at once. Nothing can be claimed.",
        endpoints: AUTH,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "auth-refuses",
        system: System::Auth,
        title: "Refuses the client",
        effect: "Its answer is 401, and the tokens issued so far are void. Health stays up; nothing can be claimed.",
        endpoints: &[Endpoint::Token],
        fault: || Fault::status(401),
    },
    Outage {
        name: "sns-down",
        system: System::Sns,
        title: "Down",
        effect: "Rows in hand are held and tried again, no more are claimed but one now and then.",
        endpoints: SNS,
        fault: || Fault::DropConnection,
    },
    Outage {
        name: "sns-slow",
        system: System::Sns,
        title: "Slow",
        effect: "Each call takes 3 seconds: more rows are in flight at once.",
        endpoints: SNS,
        fault: || Fault::Latency(SLOW),
    },
    Outage {
        name: "sns-entry",
        system: System::Sns,
        title: "One entry of a batch fails",
        effect: "The first event of each batch is refused, the others are taken: only the refused one is sent again.",
        endpoints: PUBLISHING,
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
        effect: "Every publish is refused for its rate: it is tried again, less and less often.",
        endpoints: PUBLISHING,
        fault: || Fault::SnsError {
            status: 400,
            code: "Throttling".into(),
        },
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
                ..Rule::new(*endpoint, (self.fault)())
            });
        }
        if self.system == System::Auth {
            auth.revoke_all();
        }
    }
}
