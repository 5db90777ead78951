//! Work that is done once for all callers that need its result in the meantime.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Work that was started and may be done. It goes on if its callers stop waiting.
#[derive(Debug)]
pub(crate) struct Flight<R: Clone> {
    pub started: Instant,
    task: AbortHandle,
    result: Shared<BoxFuture<'static, Option<R>>>,
}

impl<R: Clone + Send + Sync + 'static> Flight<R> {
    pub fn start(work: impl Future<Output = R> + Send + 'static) -> Self {
        let started = Instant::now();
        let task = tokio::spawn(work);
        Self {
            started,
            task: task.abort_handle(),
            result: task.map(Result::ok).boxed().shared(),
        }
    }

    /// Whether the work is still under way. The task knows. The shared result knows only if a caller has waited for it.
    pub fn is_under_way(&self) -> bool {
        !self.task.is_finished()
    }

    /// The result, which may take a while. `None` if the work panicked.
    pub fn result(&self) -> Shared<BoxFuture<'static, Option<R>>> {
        self.result.clone()
    }
}
