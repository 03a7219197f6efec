//! What happens while something else is under way: a disk that lets others act in the middle of a call.

use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use ebsfs::error::Result;
use ebsfs::overlay::{Config, Directory, File, Overlay};

use super::simulated::{Loss, Simulated};
use super::{PAGE, base, commit, filled, read};
use crate::common::gib;
use crate::images::Random;

/// What is to be done in the next call of some kind.
type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk with a hook in every sync of a data file, of a journal, and in the publication of a layer's journal.
#[derive(Clone)]
struct Hooked {
    disk: Simulated,
    data_sync: Hook,
    journal_sync: Hook,
    publish: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    sync: Hook,
}

fn set(hook: &Hook, act: impl FnOnce() + Send + 'static) {
    *hook.lock().unwrap() = Some(Box::new(act));
}

fn call(hook: &Hook) {
    let act = hook.lock().unwrap().take();
    if let Some(act) = act {
        act();
    }
}

impl Hooked {
    fn new() -> Self {
        Self {
            disk: Simulated::new(),
            data_sync: Hook::default(),
            journal_sync: Hook::default(),
            publish: Hook::default(),
        }
    }

    fn overlay(&self, config: Config) -> Arc<Overlay> {
        let directory = Arc::new(self.clone());
        Arc::new(Overlay::create_with(directory, "s", &base(), gib(1), config).unwrap())
    }

    /// What is left if all is lost that was not synced.
    fn after_power_failure(&self) -> Overlay {
        let state = self.disk.lose_power(Loss::All, &mut Random(0));
        let directory = Arc::new(Simulated::holding(state));
        Overlay::open(directory).unwrap().unwrap()
    }
}

impl Directory for Hooked {
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>> {
        let sync = if name.ends_with(".journal") {
            &self.journal_sync
        } else {
            &self.data_sync
        };
        let opened = self.disk.open(name, create)?;
        Ok(opened.map(|file| -> Arc<dyn File> {
            let sync = Arc::clone(sync);
            Arc::new(HookedFile { file, sync })
        }))
    }

    fn names(&self) -> Result<Vec<String>> {
        self.disk.names()
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if name.ends_with(".journal") {
            call(&self.publish);
        }
        self.disk.publish(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }

    fn display(&self, name: &str) -> String {
        self.disk.display(name)
    }
}

impl File for HookedFile {
    fn length(&self) -> Result<u64> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_at(offset, data)
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        self.file.reserve(range)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.file.punch(range)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.file.truncate(length)
    }

    fn sync(&self) -> Result<()> {
        call(&self.sync);
        self.file.sync()
    }
}

/// Writes a page of `byte` from a thread of its own, and fails if that has to wait.
fn write(overlay: &Arc<Overlay>, page: u64, byte: u8) -> impl FnOnce() + Send + use<> {
    let overlay = Arc::clone(overlay);
    move || {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || done.send(overlay.write_pages(page * PAGE, &filled(byte, 1))));
        let written = is_done.recv_timeout(Duration::from_secs(20));
        written.expect("the write waits").unwrap();
    }
}

#[test]
fn writers_do_not_wait_for_a_sync_and_are_not_acknowledged_by_it() {
    let disk = Hooked::new();
    let overlay = disk.overlay(Config::default());
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    set(&disk.data_sync, write(&overlay, 5, 2));
    set(&disk.journal_sync, write(&overlay, 6, 3));
    overlay.sync().unwrap();
    let after = disk.after_power_failure();
    assert_eq!(read(&after.view(), 0, 1, 9), [1]);
    // Neither is noted, though the bytes of the first are there.
    assert_eq!(read(&after.view(), 5 * PAGE, 1, 9), [9]);
    assert_eq!(read(&after.view(), 6 * PAGE, 1, 9), [9]);
    overlay.sync().unwrap();
    let after = disk.after_power_failure();
    assert_eq!(read(&after.view(), 5 * PAGE, 1, 9), [2]);
    assert_eq!(read(&after.view(), 6 * PAGE, 1, 9), [3]);
}

#[test]
fn what_is_written_while_a_seal_begins_is_sealed_durably() {
    let disk = Hooked::new();
    let overlay = disk.overlay(Config::default());
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    set(&disk.publish, write(&overlay, 5, 2));
    overlay.seal(commit()).unwrap();
    assert_eq!(overlay.view().top.amount().written, 0);
    let sealed = disk.after_power_failure().view().sealed.unwrap();
    assert_eq!(sealed.amount(), overlay.view().sealed.unwrap().amount());
    assert_eq!(sealed.amount().written, 2);
}

#[test]
fn what_is_written_before_a_journal_is_shortened_is_noted_only_with_its_bytes() {
    let disk = Hooked::new();
    let overlay = disk.overlay(Config {
        journal_len: 1000,
        journal_ratio: 2,
        ..Config::default()
    });
    let mut shortened = false;
    for turn in 0..100 {
        overlay.zero_pages(0..PAGE).unwrap();
        overlay.write_pages(0, &filled(1, 1)).unwrap();
        set(&disk.journal_sync, write(&overlay, 100 + turn, 2));
        let before = disk.disk.length_of("layer-1.journal");
        overlay.sync().unwrap();
        shortened |= disk.disk.length_of("layer-1.journal") != before;
        let after = disk.after_power_failure();
        let found = read(&after.view(), (100 + turn) * PAGE, 1, 9);
        assert!(found == [9] || found == [2], "turn {turn}: {found:?}");
    }
    assert!(shortened);
}

#[test]
fn many_writers_with_syncs_of_their_own_lose_nothing() {
    let disk = Hooked::new();
    let overlay = disk.overlay(Config {
        journal_len: 4000,
        journal_ratio: 2,
        journal_room: 3000,
        ..Config::default()
    });
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (overlay, disk) = (Arc::clone(&overlay), disk.clone());
            thread::spawn(move || {
                for round in 1..40 {
                    let page = writer * 1000 + round % 7;
                    let byte = round as u8;
                    if round % 5 == 0 {
                        overlay.zero_pages(page * PAGE..(page + 9) * PAGE).unwrap();
                    }
                    overlay.write_pages(page * PAGE, &filled(byte, 1)).unwrap();
                    overlay.sync().unwrap();
                    if round % 8 == writer {
                        let after = disk.after_power_failure();
                        assert_eq!(read(&after.view(), page * PAGE, 1, 0), [byte]);
                    }
                }
            })
        })
        .collect();
    for _ in 0..6 {
        overlay.seal(commit()).unwrap();
        overlay.fold_back().unwrap();
    }
    for writer in writers {
        writer.join().unwrap();
    }
}
