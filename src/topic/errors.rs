//! What the errors of SNS and of its SDK mean: whether the events may be on the topic, whose fault it is, and what the log says.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::types::BatchResultErrorEntry;

use crate::http::{cause_of, causes, printable};
use crate::ports::{CallError, CallErrorKind};

/// What it means that SNS refused one event of a batch.
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

/// What it means that a call failed as a whole.
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
                        // It went wrong somewhere in SNS, perhaps after the events were accepted.
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
                // Not SNS' own words, but perhaps a proxy's in front of it, or a 200 that cannot be read.
                None if !(300..500).contains(&status) => CallError::new(
                    CallErrorKind::AnswerLost,
                    format!("SNS answered {status} with an unreadable body"),
                ),
                None => CallError::unavailable(format!("SNS answered {status}")),
            }
        }
        SdkError::ResponseError(_) => {
            CallError::new(CallErrorKind::AnswerLost, "the answer of SNS is unreadable")
        }
        SdkError::TimeoutError(_) => {
            CallError::new(CallErrorKind::AnswerLost, "SNS did not answer in time")
        }
        SdkError::DispatchFailure(_) if no_credentials(error) => CallError::new(
            CallErrorKind::Unauthorised,
            format!("SNS: {}", cause_of(error)),
        ),
        // Not from the HTTP client, so that nothing was sent: the SDK's cache of credentials stopped waiting for them.
        SdkError::DispatchFailure(failure) if failure.is_other() => {
            CallError::new(CallErrorKind::Unauthorised, "SNS: no credentials in time")
        }
        SdkError::DispatchFailure(failure) => {
            let kind = if failure.is_user() || never_sent(error) {
                CallErrorKind::Unavailable
            } else {
                CallErrorKind::AnswerLost
            };
            CallError::new(kind, format!("SNS: {}", cause_of(error)))
        }
        // The request could not even be made. The SDK's words for that may hold all of it.
        _ => CallError::unavailable(
            "SNS: the request could not be made; check the address of SNS and the credentials",
        ),
    }
}

/// SNS' own words, which hold nothing of the request.
fn said(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(": {}", printable(message)))
}

fn no_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<CredentialsError>)
}

/// Whether the request failed while connecting.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| {
        error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_connect)
    })
}

/// What an error code of SNS means, for a whole call or an entry of a batch. Source: the API reference of SNS, Publish and
/// `PublishBatch`, and its common errors. The code alone decides: `KMSThrottling` says of itself that it is the sender's fault.
fn meaning_of(code: &str) -> CallErrorKind {
    known_code(code).map_or(CallErrorKind::Unavailable, |(_, kind)| *kind)
}

/// The code in the table.
fn known_code(code: &str) -> Option<&'static (&'static str, CallErrorKind)> {
    // Some protocols add a suffix to the same codes.
    let code = code.strip_suffix("Exception").unwrap_or(code);
    CODES.iter().find(|(known, _)| *known == code)
}

/// An error code as a metric's label, of which there must not be arbitrarily many.
pub fn code_label(code: Option<&str>) -> &'static str {
    match code {
        None => "no_answer",
        Some(code) => known_code(code).map_or("other", |(known, _)| known),
    }
}

/// Any other code is taken for [`CallErrorKind::Unavailable`]: it may work later.
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
