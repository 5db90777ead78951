//! What errors of SNS and its SDK mean: whether the events may be on the topic, whether the message is at fault, and
//! what is logged.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::types::BatchResultErrorEntry;

use crate::http::{cause_of, causes, printable};
use crate::ports::{CallError, CallErrorKind};

const NOT_MADE: &str =
    "SNS: the request could not be made; check the address of SNS and the credentials";

/// SNS refused one event of a batch.
pub fn entry_error(failed: &BatchResultErrorEntry) -> CallError {
    CallError::new(
        meaning_of(failed.code()),
        format!(
            "publish: SNS answered {} for an event{}",
            printable(failed.code()),
            said(failed.message())
        ),
    )
}

/// The call failed as a whole.
pub fn call_error<E>(error: &SdkError<E>) -> CallError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            match answer.err().code() {
                Some(code) => {
                    let kind = match meaning_of(code) {
                        // Something failed in SNS, perhaps after it had accepted the events.
                        CallErrorKind::Unavailable if status >= 500 || code == "RequestTimeout" => {
                            CallErrorKind::AnswerLost
                        }
                        kind => kind,
                    };
                    let said = said(answer.err().message());
                    let code = printable(code);
                    CallError::new(kind, format!("SNS answered {status} {code}{said}"))
                }

                None if status == 429 => {
                    CallError::new(CallErrorKind::Contended, "SNS answered 429")
                }
                // Perhaps from a proxy in front of SNS, or an unreadable 200.
                None if !(300..500).contains(&status) => CallError::new(
                    CallErrorKind::AnswerLost,
                    format!("SNS answered {status} with an unreadable body"),
                ),
                None => CallError::unavailable(format!("SNS answered {status}")),
            }
        }
        SdkError::ResponseError(_) => CallError::new(
            CallErrorKind::AnswerLost,
            "the answer from SNS is unreadable",
        ),
        SdkError::TimeoutError(_) => {
            CallError::new(CallErrorKind::AnswerLost, "SNS did not answer in time")
        }
        SdkError::DispatchFailure(_) if no_credentials(error) => CallError::new(
            CallErrorKind::Unauthorised,
            format!("SNS: {}", cause_of(error)),
        ),
        // Not from the HTTP client, so nothing was sent: the SDK's cache of credentials stopped waiting for them.
        SdkError::DispatchFailure(failure) if failure.is_other() => {
            let is_late = causes(error).any(|error| error.to_string().contains("timed out"));
            if is_late {
                CallError::new(
                    CallErrorKind::Unauthorised,
                    "SNS: the credentials did not arrive in time",
                )
            } else {
                CallError::unavailable(NOT_MADE)
            }
        }
        SdkError::DispatchFailure(failure) => {
            let kind = if failure.is_user() || never_sent(error) {
                CallErrorKind::Unavailable
            } else {
                CallErrorKind::AnswerLost
            };
            CallError::new(kind, format!("SNS: {}", cause_of(error)))
        }
        // The request could not be built. The SDK's text may contain all of it.
        _ => CallError::unavailable(NOT_MADE),
    }
}

/// The message that SNS returned. It quotes nothing from the request.
fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(": {}", printable(message)))
}

fn no_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<CredentialsError>)
}

fn never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| {
        error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_connect)
    })
}

/// What an error code of SNS means, for a whole call or one entry of a batch. Source: the API reference of SNS, Publish
/// and `PublishBatch`, and its common errors. Only the code counts: `KMSThrottling` claims to be the sender's fault.
fn meaning_of(code: &str) -> CallErrorKind {
    known_code(code).map_or(CallErrorKind::Unavailable, |(_, kind)| *kind)
}

fn known_code(code: &str) -> Option<&'static (&'static str, CallErrorKind)> {
    // Some protocols add a suffix to the codes.
    let code = code.strip_suffix("Exception").unwrap_or(code);
    CODES.iter().find(|(known, _)| *known == code)
}

/// An error code as a metric's label. Labels must come from a fixed list.
pub fn code_label(code: Option<&str>) -> &'static str {
    match code {
        None => "no_answer",
        Some(code) => known_code(code).map_or("other", |(known, _)| known),
    }
}

/// Any other code counts as [`CallErrorKind::Unavailable`]: it may work later.
const CODES: &[(&str, CallErrorKind)] = &[
    ("Throttled", CallErrorKind::Contended),
    ("Throttling", CallErrorKind::Contended),
    ("ThrottledRequest", CallErrorKind::Contended),
    ("RequestThrottled", CallErrorKind::Contended),
    ("RequestLimitExceeded", CallErrorKind::Contended),
    ("TooManyRequests", CallErrorKind::Contended),
    ("KMSThrottling", CallErrorKind::Contended),
    ("SlowDown", CallErrorKind::Contended),
    ("InvalidParameter", CallErrorKind::Refused),
    ("ParameterValueInvalid", CallErrorKind::Refused),
    ("InvalidParameterValue", CallErrorKind::Refused),
    ("Validation", CallErrorKind::Refused),
    ("ValidationError", CallErrorKind::Refused),
    ("BatchRequestTooLong", CallErrorKind::Refused),
    ("AuthorizationError", CallErrorKind::Unauthorised),
    ("AccessDenied", CallErrorKind::Unauthorised),
    ("InvalidSecurity", CallErrorKind::Unauthorised),
    ("InvalidClientTokenId", CallErrorKind::Unauthorised),
    ("ExpiredToken", CallErrorKind::Unauthorised),
    ("UnrecognizedClient", CallErrorKind::Unauthorised),
    ("SignatureDoesNotMatch", CallErrorKind::Unauthorised),
    ("MissingAuthenticationToken", CallErrorKind::Unauthorised),
    ("KMSAccessDenied", CallErrorKind::Unauthorised),
    ("InternalError", CallErrorKind::Unavailable),
    ("InternalFailure", CallErrorKind::Unavailable),
    ("RequestTimeout", CallErrorKind::Unavailable),
    ("ServiceUnavailable", CallErrorKind::Unavailable),
    ("NotFound", CallErrorKind::Unavailable),
    ("KMSDisabled", CallErrorKind::Unavailable),
    ("KMSInvalidState", CallErrorKind::Unavailable),
    ("KMSNotFound", CallErrorKind::Unavailable),
    ("KMSOptInRequired", CallErrorKind::Unavailable),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_have_one_meaning_with_any_suffix() {
        use CallErrorKind::{Contended, Refused, Unauthorised, Unavailable};
        for (codes, meaning) in [
            (
                &[
                    "Throttling",
                    "ThrottlingException",
                    "Throttled",
                    "ThrottledException",
                    "KMSThrottling",
                ][..],
                Contended,
            ),
            (
                &[
                    "InvalidParameter",
                    "ParameterValueInvalid",
                    "InvalidParameterValue",
                    "ValidationException",
                ],
                Refused,
            ),
            (
                &[
                    "BatchRequestTooLong",
                    "InvalidParameterException",
                    "BatchRequestTooLongException",
                ],
                Refused,
            ),
            (
                &[
                    "AuthorizationError",
                    "InvalidSecurity",
                    "ExpiredToken",
                    "KMSAccessDenied",
                ],
                Unauthorised,
            ),
            (
                &[
                    "InternalError",
                    "InternalErrorException",
                    "RequestTimeout",
                    "NotFound",
                    "KMSDisabled",
                ],
                Unavailable,
            ),
            (
                &[
                    "KMSNotFound",
                    "KMSInvalidState",
                    "KMSOptInRequired",
                    "ServiceUnavailable",
                    "",
                    "New",
                ],
                Unavailable,
            ),
        ] {
            for code in codes {
                assert_eq!(meaning_of(code), meaning, "{code}");
            }
        }
    }
}
