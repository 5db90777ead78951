//! Who the service is to AWS, by its credentials: for `check`, which shows whose permissions are missing.

use aws_sdk_sts::Client;
use aws_sdk_sts::error::ProvideErrorMetadata;

use crate::http::cause_of;

/// The holder of the service's credentials, known to STS.
#[derive(Debug)]
pub struct Identity(Client);

impl Identity {
    /// Whoever makes this client's calls.
    #[must_use]
    pub fn new(sts: Client) -> Self {
        Self(sts)
    }

    /// The ARN of the user or role. No permission is needed to ask for it.
    ///
    /// # Errors
    /// In words.
    pub async fn arn(&self) -> Result<String, String> {
        match self.0.get_caller_identity().send().await {
            Ok(answer) => answer
                .arn
                .ok_or_else(|| "the answer of STS has no ARN".to_owned()),
            Err(error) => Err(match error.code() {
                Some(code) => format!("STS answered {code}"),
                None => format!("STS: {}", cause_of(&error)),
            }),
        }
    }
}
