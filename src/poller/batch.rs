//! Which events of a batch must be published again, and why.

use crate::ports::{CallError, CallErrorKind};

/// Removes the accepted events from `events`. `answers` has one answer per event. Returns the most important error of
/// the remaining ones.
///
/// A lost answer comes first, since that event may be on the topic. A refusal comes last: every event that may still be
/// accepted is published before the row is left.
pub fn keep_unaccepted<E>(
    events: &mut Vec<E>,
    answers: Vec<Result<(), CallError>>,
) -> Option<CallError> {
    let mut answers = answers.into_iter();
    let mut errors = Vec::new();
    events.retain(|_| {
        let unanswered = || CallError::new(CallErrorKind::AnswerLost, "no answer for an event");
        let answer = answers.next().unwrap_or_else(|| Err(unanswered()));
        answer.map_err(|error| errors.push(error)).is_err()
    });
    errors.into_iter().max_by_key(|error| match error.kind {
        CallErrorKind::AnswerLost => 2,
        CallErrorKind::Refused => 0,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_events_are_removed_and_the_worst_error_is_returned() {
        use CallErrorKind::{AnswerLost, Contended, Refused};
        // The answers for two events; those that are left, and the error.
        #[rustfmt::skip]
        let cases = [
            (vec![None, None], vec![], None),
            (vec![Some(Contended), None], vec![0], Some(Contended)),
            (vec![None, Some(Refused)], vec![1], Some(Refused)),
            (vec![Some(Refused), Some(Refused)], vec![0, 1], Some(Refused)),
            (vec![Some(Refused), Some(Contended)], vec![0, 1], Some(Contended)),
            (vec![Some(Contended), Some(Refused)], vec![0, 1], Some(Contended)),
            (vec![Some(AnswerLost), Some(Contended)], vec![0, 1], Some(AnswerLost)),
            (vec![Some(Contended), Some(AnswerLost)], vec![0, 1], Some(AnswerLost)),
            (vec![Some(Refused), Some(AnswerLost)], vec![0, 1], Some(AnswerLost)),
            // An event without an answer may be on the topic.
            (vec![None], vec![1], Some(AnswerLost)),
            (vec![], vec![0, 1], Some(AnswerLost)),
        ];
        for (answers, left, error) in cases {
            let mut events = vec![0, 1];
            let of = |kind: &Option<_>| kind.map_or(Ok(()), |kind| Err(CallError::new(kind, "x")));
            let returned = keep_unaccepted(&mut events, answers.iter().map(of).collect());
            assert_eq!(events, left, "{answers:?}");
            assert_eq!(returned.map(|error| error.kind), error, "{answers:?}");
        }
    }
}
