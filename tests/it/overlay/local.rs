//! What only a real file system shows: locks, full disks, large files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebsfs::error::ErrorKind;
use ebsfs::overlay::{Config, Holder, LocalDirectory, Overlay, State, inspect, read_header};

use super::simulated::Simulated;
use super::{PAGE, base, commit, filled, open, read};
use crate::common::{gib, kind, scratch};
use crate::devices::Mounted;
use crate::images::MIB;
use crate::program::is_root;

const TIB: u64 = 1 << 40;
const NOT_LONG: Duration = Duration::from_millis(50);

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_overlay_is_one_processs_and_its_owners() {
    let dir = scratch();
    let path = dir.path().join("new/overlay");
    let overlay = open(&path);
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    overlay.sync().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(
        names(&path),
        ["layer-1.data-0", "layer-1.journal", "lock", "overlay"]
    );
    for name in names(&path) {
        assert_eq!(mode(&path.join(&name)), 0o600, "{name}");
    }

    let error = LocalDirectory::open_within(&path, NOT_LONG).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let pid = std::process::id();
    assert!(
        error
            .to_string()
            .ends_with(&format!("is in use by process {pid}"))
    );
    drop(overlay);
    assert_eq!(LocalDirectory::holder(&path).unwrap(), None);
    let directory = LocalDirectory::open(&path).unwrap();
    directory.describe("mounted on /mnt/x y").unwrap();
    let holder = Holder {
        pid: Some(pid),
        doing: "mounted on /mnt/x y".into(),
    };
    assert_eq!(LocalDirectory::holder(&path).unwrap(), Some(holder));
    let error = LocalDirectory::open_within(&path, NOT_LONG).err().unwrap();
    let words = format!("process {pid} (mounted on /mnt/x y)");
    assert!(error.to_string().ends_with(&words), "{error}");
}

#[test]
fn the_lock_of_another_process_is_waited_for() {
    let dir = scratch();
    drop(open(dir.path()));
    let mut holder = Command::new("flock")
        .arg(dir.path().join("lock"))
        .args(["sh", "-c", "echo 4711 a test > \"$0\"; echo; read x"])
        .arg(dir.path().join("lock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(holder.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let error = LocalDirectory::open_within(dir.path(), NOT_LONG)
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().ends_with("process 4711 (a test)"),
        "{error}"
    );
    let waiting = {
        let path = dir.path().to_owned();
        std::thread::spawn(move || LocalDirectory::open(&path).map(drop))
    };
    std::thread::sleep(NOT_LONG);
    drop(holder.stdin.take());
    waiting.join().unwrap().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_directory_of_something_else_is_refused_and_not_touched() {
    let dir = scratch();
    fs::write(dir.path().join("thesis.txt"), "all of it").unwrap();
    let error = LocalDirectory::open(dir.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(names(dir.path()), ["thesis.txt"]);
}

#[test]
fn what_a_crash_left_over_goes_when_the_overlay_is_opened() {
    let dir = scratch();
    drop(open(dir.path()));
    let before = names(dir.path());
    for left in [
        "layer-2.journal",
        "layer-2.data-0",
        "layer-7.data-3",
        ".0a-1.tmp",
    ] {
        fs::write(dir.path().join(left), "left over").unwrap();
    }
    fs::write(dir.path().join("puts"), "a commit's").unwrap();
    drop(open(dir.path()));
    assert_eq!(names(dir.path()), [before, vec!["puts".into()]].concat());
}

#[test]
fn an_overlay_can_be_looked_at_while_another_has_it() {
    let dir = scratch();
    assert_eq!(read_header(dir.path()).unwrap(), None);
    assert_eq!(inspect(&dir.path().join("nowhere")).unwrap(), None);
    let overlay = open(dir.path());
    overlay.write_pages(0, &filled(1, 3)).unwrap();
    overlay.seal(commit()).unwrap();
    overlay.zero_pages(0..PAGE).unwrap();
    overlay.sync().unwrap();
    let seen = inspect(dir.path()).unwrap().unwrap();
    assert_eq!(seen.header, overlay.header());
    let view = overlay.view();
    assert_eq!(seen.top, view.top.amount());
    assert_eq!(seen.sealed, Some(view.sealed.unwrap().amount()));
    assert!((3 * PAGE..3 * MIB).contains(&seen.allocated), "{seen:?}");
}

#[test]
fn damage_and_newer_versions_are_refused_and_nothing_is_changed() {
    type Harm = fn(Vec<u8>) -> Vec<u8>;
    let harms: [(&str, ErrorKind, Harm); 4] = [
        ("overlay", ErrorKind::Unsupported, |_| {
            b"ebsfs-overlay 2 something\n{}".to_vec()
        }),
        ("overlay", ErrorKind::Corrupt, |mut bytes| {
            bytes[100] ^= 1;
            bytes
        }),
        ("layer-1.journal", ErrorKind::Corrupt, |mut bytes| {
            bytes[20] ^= 1;
            bytes
        }),
        // The first of two records.
        ("layer-1.journal", ErrorKind::Corrupt, |mut bytes| {
            bytes[70] ^= 1;
            bytes
        }),
    ];
    for (name, expected, harm) in harms {
        let dir = scratch();
        let overlay = open(dir.path());
        for byte in 1..3 {
            overlay
                .write_pages(u64::from(byte) * PAGE, &filled(byte, 1))
                .unwrap();
            overlay.sync().unwrap();
        }
        drop(overlay);
        let path = dir.path().join(name);
        let harmed = harm(fs::read(&path).unwrap());
        fs::write(&path, &harmed).unwrap();
        let directory = Arc::new(LocalDirectory::open(dir.path()).unwrap());
        let error = Overlay::open(directory).err().unwrap();
        assert_eq!(error.kind(), expected, "{error:#}");
        assert!(
            format!("{error:#}").contains(path.to_str().unwrap()),
            "{error:#}"
        );
        assert_eq!(fs::read(&path).unwrap(), harmed);
    }
    let dir = scratch();
    let overlay = open(dir.path());
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    overlay.sync().unwrap();
    drop(overlay);
    fs::remove_file(dir.path().join("layer-1.data-0")).unwrap();
    let directory = Arc::new(LocalDirectory::open(dir.path()).unwrap());
    assert_eq!(kind(Overlay::open(directory)), ErrorKind::Corrupt);
}

#[test]
fn a_discard_of_64_tib_costs_next_to_nothing_and_data_is_split_at_1_tib() {
    let dir = scratch();
    let size = gib(65536);
    let directory = Arc::new(LocalDirectory::open(dir.path()).unwrap());
    let overlay = Overlay::create(directory, "store", &base(), size).unwrap();
    for tib in [1, 2, 63] {
        overlay
            .write_pages(tib * TIB - PAGE, &filled(7, 2))
            .unwrap();
    }
    overlay.sync().unwrap();
    let view = overlay.view();
    assert_eq!(read(&view, TIB - 1, 2, 0), [7, 7]);
    drop((overlay, view));
    let data = |name: &&String| name.contains("data");
    assert_eq!(names(dir.path()).iter().filter(data).count(), 5);
    let last = dir.path().join("layer-1.data-62").metadata().unwrap();
    assert_eq!(last.len(), TIB);
    assert!(last.blocks() * 512 <= MIB);

    let overlay = open(dir.path());
    let begin = Instant::now();
    overlay.zero_pages(0..size.bytes()).unwrap();
    overlay.sync().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(overlay.view().extent(5), (State::Zero, size.bytes()));
    assert_eq!(overlay.view().top.amount().zero, size.bytes() / PAGE);
    drop(overlay);
    let journal = dir.path().join("layer-1.journal");
    // Room that was taken ahead goes when it is opened.
    let overlay = open(dir.path());
    assert!(journal.metadata().unwrap().len() < 600);
    assert_eq!(overlay.view().extent(5), (State::Zero, size.bytes()));
    assert!(last.blocks() * 512 <= MIB);
}

#[test]
fn a_failed_sync_is_final_and_reads_go_on() {
    let disk = Simulated::new();
    let overlay = Overlay::create(Arc::new(disk.clone()), "store", &base(), gib(1)).unwrap();
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    overlay.sync().unwrap();
    overlay.write_pages(0, &filled(2, 2)).unwrap();
    disk.fail_syncs(true);
    assert_eq!(kind(overlay.sync()), ErrorKind::Io);
    // The next one would succeed.
    disk.fail_syncs(false);
    for refused in [
        overlay.sync(),
        overlay.write_pages(0, &filled(3, 1)),
        overlay.write_part(0, &[3], None).map(drop),
        overlay.zero_pages(0..PAGE),
        overlay.seal(commit()),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert!(error.to_string().contains("simulated failure"), "{error}");
    }
    assert_eq!(read(&overlay.view(), PAGE - 1, 2, 9), [2, 2]);
}

#[test]
fn a_failed_sync_of_room_for_the_journal_is_final_too() {
    let disk = Simulated::new();
    let config = Config {
        journal_room: 200,
        ..Config::default()
    };
    let directory = Arc::new(disk.clone());
    let overlay = Overlay::create_with(directory, "store", &base(), gib(1), config).unwrap();
    overlay.write_pages(0, &filled(1, 1)).unwrap();
    overlay.sync().unwrap();
    disk.fail_syncs(true);
    assert_eq!(
        kind(overlay.write_pages(PAGE, &filled(1, 1))),
        ErrorKind::Io
    );
    disk.fail_syncs(false);
    assert_eq!(kind(overlay.sync()), ErrorKind::ReadOnly);
}

/// A file system of 64 MiB at `small` in a scratch directory, with an overlay in it.
fn on_a_small_disk(test: impl FnOnce(&Path)) {
    let dir = scratch();
    let small = dir.path().join("small");
    let _mounted = Mounted::ext4(&dir.path().join("small.fs"), 64 * MIB, &small);
    test(&small);
}

#[test]
fn a_full_disk_shows_at_a_write_and_never_at_a_sync() {
    if !is_root("a_full_disk_shows_at_a_write_and_never_at_a_sync") {
        return;
    }
    on_a_small_disk(|small| {
        let path = small.join("overlay");
        fs::write(small.join("ballast"), vec![1; 8 << 20]).unwrap();
        let overlay = open(&path);
        let mut written = 0;
        let full = loop {
            // Pages far apart, so that each needs an entry in the journal and some of the file's own.
            let offset = written * 7 * PAGE;
            match overlay.write_pages(offset, &filled(written as u8 | 1, 3)) {
                Ok(()) => written += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert!(written > 2000, "{written}");
        overlay.sync().unwrap();
        let check = |overlay: &Overlay| {
            let view = overlay.view();
            for at in 0..written {
                let bytes = read(&view, at * 7 * PAGE, 3 * PAGE as usize, 0);
                assert!(bytes == filled(at as u8 | 1, 3), "write {at}");
            }
            assert_eq!(view.extent(written * 7 * PAGE).0, State::Base);
        };
        check(&overlay);
        // What is there can be written over, and what is full stays so.
        overlay.write_pages(0, &filled(1, 3)).unwrap();
        overlay.sync().unwrap();
        assert_eq!(
            kind(overlay.write_pages(written * 7 * PAGE, &filled(9, 64))),
            ErrorKind::NoSpace
        );
        overlay.sync().unwrap();
        drop(overlay);
        let overlay = open(&path);
        check(&overlay);
        fs::remove_file(small.join("ballast")).unwrap();
        overlay
            .write_pages(written * 7 * PAGE, &filled(9, 64))
            .unwrap();
        overlay.sync().unwrap();
        assert_eq!(read(&overlay.view(), written * 7 * PAGE, 1, 0), [9]);
    });
}

#[test]
fn a_journal_that_cannot_grow_or_be_shortened_refuses_writes_not_syncs() {
    if !is_root("a_journal_that_cannot_grow_or_be_shortened_refuses_writes_not_syncs") {
        return;
    }
    on_a_small_disk(|small| {
        let config = Config {
            journal_room: 65536,
            journal_len: 16384,
            ..Config::default()
        };
        let path = small.join("overlay");
        let directory = Arc::new(LocalDirectory::open(&path).unwrap());
        let overlay = Overlay::create_with(directory, "store", &base(), gib(1), config).unwrap();
        overlay.zero_pages(0..PAGE).unwrap();
        let mut ballast = fs::File::create(small.join("ballast")).unwrap();
        let mut piece = 1 << 20;
        while piece >= 4096 {
            if std::io::Write::write_all(&mut ballast, &vec![1; piece]).is_err() {
                piece /= 2;
            }
        }
        // Discards need nothing but the journal.
        let discard = |page: u64| {
            let done = overlay.zero_pages(page * PAGE..(page + 1) * PAGE);
            overlay.sync().unwrap();
            done
        };
        let refused = (1..).map(|turn| discard(2 * turn)).find_map(Result::err);
        assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::NoSpace));
        let noted = overlay.view().top.amount().zero;
        assert!(noted > 900, "{noted}");
        let journal = path.join("layer-1.journal");
        let long = journal.metadata().unwrap().len();
        assert!(long >= 65536, "{long}");

        drop(ballast);
        fs::remove_file(small.join("ballast")).unwrap();
        for turn in 1..1500 {
            discard(100_000 + 2 * turn).unwrap();
        }
        assert_eq!(overlay.view().top.amount().zero, noted + 1499);
        drop(overlay);
        let overlay = open(&path);
        let short = journal.metadata().unwrap().len();
        assert!(short < long, "{short}, {long}");
        assert_eq!(overlay.view().top.amount().zero, noted + 1499);
    });
}
