//! A bar on stderr, if stderr is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::block::BlockIndex;

/// How far through a disk some work has come.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Work over `bytes` bytes. Without a terminal nothing is shown.
    pub(super) fn new(verb: &'static str, bytes: u64) -> Self {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::new(bytes).with_style(style).with_message(verb),
        }
    }

    /// All before `index` is done.
    pub(super) fn reached(&self, index: BlockIndex) {
        self.done(index.start());
    }

    /// So many bytes are done.
    pub(super) fn done(&self, bytes: u64) {
        let length = self.bar.length().unwrap_or(u64::MAX);
        self.bar.set_position(bytes.min(length));
    }

    /// Shows that rate and remaining time count from here: what came before was done earlier.
    pub(super) fn starts_at(&self, index: BlockIndex) {
        self.reached(index);
        self.bar.reset_eta();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Whatever is printed next begins on a line of its own.
        self.bar.finish_and_clear();
    }
}

/// How far some work has come of which nobody knows how much it is.
pub(super) struct Counted {
    bar: ProgressBar,
}

impl Counted {
    /// Work on files. Without a terminal nothing is shown.
    pub(super) fn new(verb: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {msg}, {bytes} {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self {
            bar: ProgressBar::no_length().with_style(style).with_prefix(verb),
        }
    }

    /// So many files and bytes are done.
    pub(super) fn reached(&self, files: u64, bytes: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{files} files"));
            self.bar.set_position(bytes);
        }
    }

    /// Has something told while the bar is out of the way.
    pub(super) fn aside(&self, tell: impl FnOnce()) {
        self.bar.suspend(tell);
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
