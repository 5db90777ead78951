//! Writes log lines to standard output: a bounded buffer and a thread that writes it, so that nothing waits for the
//! reader of the log.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus::IntCounter;

/// The most bytes that may wait. The writing thread may hold as many again.
pub const CAPACITY: usize = 512 * 1024;
/// How long the thread collects lines before it writes them. Waking it for each line costs more than the line.
const COLLECTED_FOR: Duration = Duration::from_millis(10);
/// The longest time that the thread waits for lines.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Lines {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    lost: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    /// Lines that were lost and not yet reported in the log.
    lost: u64,
}

impl Lines {
    /// `lost` counts lines that do not fit, or cannot be written.
    pub fn new(capacity: usize, lost: IntCounter) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
            lost,
        })
    }

    /// Starts the thread that writes the lines to `out`. At least once a second, unless a write blocks, it calls `tick`
    /// with the number of lines that were lost before the log flowed again. That is usually 0.
    pub fn write_to(
        self: &Arc<Self>,
        out: impl Write + Send + 'static,
        tick: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let lines = self.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || lines.keep_writing(out, tick))?;
        Ok(())
    }

    fn keep_writing(&self, mut out: impl Write, tick: impl Fn(u64)) {
        let mut batch = Vec::new();
        let mut flows = true;
        loop {
            if self.has_lines_within(TICK) {
                thread::sleep(COLLECTED_FOR);
            }
            let lost = self.take(&mut batch, flows);
            // There is now room for the lines that `tick` logs.
            tick(lost);
            if !batch.is_empty() {
                flows = out.write_all(&batch).and_then(|()| out.flush()).is_ok();
            }
            self.written(&batch, flows);
        }
    }

    fn has_lines_within(&self, limit: Duration) -> bool {
        let is_empty = |state: &mut State| state.waiting.is_empty();
        self.wait_while(is_empty, limit)
    }

    /// Takes all lines. If the log flows, it also returns how many were lost.
    fn take(&self, batch: &mut Vec<u8>, flows: bool) -> u64 {
        batch.clear();
        let mut state = self.lock();
        std::mem::swap(batch, &mut state.waiting);
        state.is_writing = true;
        if flows {
            std::mem::take(&mut state.lost)
        } else {
            0
        }
    }

    fn written(&self, batch: &[u8], successfully: bool) {
        let mut state = self.lock();
        state.is_writing = false;
        if !successfully {
            let lines = batch.split(|&byte| byte == b'\n').count() - 1;
            self.lose(&mut state, lines as u64);
        }
        self.changed.notify_all();
    }

    fn lose(&self, state: &mut State, lines: u64) {
        state.lost += lines;
        self.lost.inc_by(lines);
    }

    /// Waits until all lines are written, but no longer than `limit`.
    pub fn finish(&self, limit: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        self.wait_while(is_busy, limit);
    }

    /// Waits until the state changes. Returns whether that happened within the limit.
    fn wait_while(&self, is_same: impl FnMut(&mut State) -> bool, limit: Duration) -> bool {
        let waited = self
            .changed
            .wait_while_for(&mut self.lock(), is_same, limit);
        !waited.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > self.capacity {
            self.lose(&mut state, 1);
        } else {
            // The thread waits only for the first line.
            if state.waiting.is_empty() {
                self.changed.notify_all();
            }
            state.waiting.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A log that accepts a write only when it is read.
    struct Pipe(SyncSender<String>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let sent = self.0.send(text);
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(capacity: usize) -> (Arc<Lines>, IntCounter) {
        let lost = IntCounter::new("lost", "lost").unwrap();
        (Lines::new(capacity, lost.clone()), lost)
    }

    fn piped(lines: &Arc<Lines>) -> (Receiver<String>, Receiver<u64>) {
        let (pipe, log) = sync_channel(0);
        let (sender, losses): (Sender<u64>, _) = channel();
        let tick = move |lost| {
            if lost > 0 {
                sender.send(lost).unwrap();
            }
        };
        lines.write_to(Pipe(pipe), tick).unwrap();
        (log, losses)
    }

    fn say(mut lines: &Lines, line: &str) {
        lines.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn an_unread_log_blocks_nothing_and_lost_lines_are_counted() {
        let (lines, lost) = lines(4);
        let (log, losses) = piped(&lines);
        say(&lines, "a\n");
        // Being written until someone reads.
        while !lines.lock().is_writing {
            thread::yield_now();
        }
        for line in ["b\n", "c\n", "d\n", "e\n"] {
            say(&lines, line);
        }
        assert_eq!(lost.get(), 2);
        // The end of the process does not wait forever either.
        lines.finish(Duration::from_millis(1));
        assert_eq!(log.recv_timeout(PATIENCE).unwrap(), "a\n");
        assert_eq!(losses.recv_timeout(PATIENCE).unwrap(), 2);
        assert_eq!(log.recv_timeout(PATIENCE).unwrap(), "b\nc\n");
        lines.finish(PATIENCE);
        assert_eq!(lines.lock().lost, 0);
    }

    #[test]
    fn what_waits_at_the_end_is_written() {
        let (lines, lost) = lines(CAPACITY);
        for line in 0..1000 {
            say(&lines, &format!("{line}\n"));
        }
        let (reader, writer) = io::pipe().unwrap();
        lines.write_to(writer, |_| {}).unwrap();
        lines.finish(PATIENCE);
        let written = BufReader::new(reader).lines().take(1000);
        assert_eq!(written.last().unwrap().unwrap(), "999");
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_log_stays_quiet() {
        let (lines, lost) = lines(CAPACITY);
        let (log, losses) = piped(&lines);
        drop(log);
        say(&lines, "a\nb\n");
        say(&lines, "c\n");
        lines.finish(PATIENCE);
        assert_eq!(lost.get(), 3);
        assert!(losses.try_recv().is_err());
    }
}
