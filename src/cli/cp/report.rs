//! What is told of a copy: a bar while it goes on, each error when it happens, and the sum of it in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::HumanBytes;

use super::super::counted::{counted, counted_as};
use super::super::list::printable;
use super::super::progress::Counted;
use super::super::tell;
use crate::error::Error;
use crate::recover::{Tally, Watch};

/// One copy.
pub(super) struct Report {
    /// Of many files.
    bar: Option<Counted>,
    interrupted: AtomicBool,
}

/// Whoever recovers tells it.
pub(super) struct Watcher(pub(super) Arc<Report>);

impl Report {
    pub(super) fn new(many: bool) -> Self {
        Self {
            bar: many.then(|| Counted::new("cp")),
            interrupted: AtomicBool::new(false),
        }
    }

    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    fn say(&self, text: &str) {
        let say = || tell(&printable(text));
        match &self.bar {
            Some(bar) => bar.aside(say),
            None => say(),
        }
    }

    /// The sum, unless one file is where it was asked for, which needs no words.
    pub(super) fn end(&self, tally: &Tally, taken: Duration) {
        if let Some(bar) = &self.bar {
            bar.end();
        }
        let (left_out, errors) = (of(&tally.left_out), of(&tally.errors));
        if self.bar.is_some() || left_out > 0 || errors > 0 {
            tell(&sum(tally, taken));
        }
    }
}

impl Watch for Watcher {
    fn failed(&self, path: &[u8], error: &Error) {
        let path = String::from_utf8_lossy(path);
        self.0.say(&format!("{path}: {error:#}"));
    }

    fn refused(&self, what: &str) {
        let text = format!("the destination does not take {what}: the copies are without");
        self.0.say(&text);
    }

    fn advanced(&self, tally: &Tally) {
        if let Some(bar) = &self.0.bar {
            bar.reached(of(&tally.files), of(&tally.bytes));
        }
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Relaxed)
    }
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn sum(tally: &Tally, taken: Duration) -> String {
    let mut text = format!(
        "copied {}, {}",
        counted(of(&tally.files), "file"),
        HumanBytes(of(&tally.bytes))
    );
    let more = [
        (of(&tally.directories), "directory", "directories"),
        (of(&tally.symlinks), "symbolic link", "symbolic links"),
        (of(&tally.links), "hard link", "hard links"),
        (of(&tally.devices), "special file", "special files"),
    ];
    for (count, one, many) in more {
        if count > 0 {
            text.push_str(&format!(", {}", counted_as(count, one, many)));
        }
    }
    text.push_str(&format!(" in {:.1} s", taken.as_secs_f64()));
    let (skipped, left_out) = (of(&tally.skipped), of(&tally.left_out));
    if skipped > 0 {
        text.push_str(&format!("; {skipped} were there already"));
    }
    if left_out > 0 {
        let what = counted_as(
            left_out,
            "device, pipe or socket",
            "devices, pipes and sockets",
        );
        text.push_str(&format!("; without {what} (--devices)"));
    }
    match of(&tally.errors) {
        0 => {}
        errors => text.push_str(&format!("; {}", counted(errors, "error"))),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_tells_what_there_was() {
        let tally = Tally::default();
        let taken = Duration::from_millis(1234);
        assert_eq!(sum(&tally, taken), "copied 0 files, 0 B in 1.2 s");
        for (counter, value) in [
            (&tally.files, 1),
            (&tally.bytes, 2048),
            (&tally.directories, 2),
            (&tally.skipped, 3),
            (&tally.left_out, 4),
            (&tally.errors, 1),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
        let told = "copied 1 file, 2.00 KiB, 2 directories in 1.2 s; 3 were there already; \
            without 4 devices, pipes and sockets (--devices); 1 error";
        assert_eq!(sum(&tally, taken), told);
    }
}
