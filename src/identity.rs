//! Who the service is to AWS. `check` shows it, so that missing permissions can be granted to the right role.

use aws_sdk_sts::Client;
use aws_sdk_sts::error::ProvideErrorMetadata;

use crate::http::cause_of;
use crate::http::sdk::caught;

/// The ARN of the user or role. STS needs no permission for this.
pub async fn arn(sts: &Client) -> Result<String, String> {
    let answer = caught(sts.get_caller_identity().send()).await;
    match answer.map_err(|cause| format!("STS: {cause}"))? {
        Ok(answer) => answer
            .arn
            .ok_or_else(|| "the answer from STS has no ARN".to_owned()),
        Err(error) => Err(match error.code() {
            Some(code) => format!("STS answered {code}"),
            None => format!("STS: {}", cause_of(&error)),
        }),
    }
}
