//! The directory of profiles: one file for each snapshot, replaced as a whole, bounded in number.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use log::{debug, warn};

use super::record::{MAX_BYTES, Owner, Profile};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// Files that are kept, those written last: 64 MiB at the very most, mostly far less.
const MOST: usize = 1000;

pub(super) struct Files {
    directory: PathBuf,
    /// Whether it was told that none can be kept: once is enough.
    told: AtomicBool,
}

impl Files {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            told: AtomicBool::new(false),
        }
    }

    fn path(&self, owner: &Owner) -> PathBuf {
        self.directory.join(owner.file_name())
    }

    /// The profile of `owner`, if there is one that is whole.
    pub(super) fn load(&self, owner: &Owner) -> Option<Profile> {
        let path = self.path(owner);
        match read(&path, owner) {
            Ok(profile) => Some(profile),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => {
                debug!("{}: no access profile: {e:#}", owner.snapshot);
                None
            }
        }
    }

    /// Keeps `profile` in place of the one before.
    pub(super) fn save(&self, owner: &Owner, profile: &Profile) {
        let path = self.path(owner);
        let saved = durable::create_private_dir(&self.directory)
            .and_then(|()| durable::replace(&path, &profile.encode(owner)));
        match saved {
            Ok(()) => debug!(
                "{}: access profile of {} blocks",
                owner.snapshot,
                profile.blocks().len()
            ),
            Err(e) if self.told.swap(true, Ordering::Relaxed) => debug!("no access profile: {e:#}"),
            Err(e) => warn!("the next mount will know nothing of what this one reads: {e:#}"),
        }
    }

    /// Removes those written longest ago, if there are too many; also what a killed process left half-written.
    pub(super) fn tidy(&self) {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let dated = entries
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
        let mut files: Vec<_> = dated.collect();
        files.sort();
        let surplus = files.len().saturating_sub(MOST);
        for (_, path) in files.drain(..surplus) {
            drop(fs::remove_file(path));
        }
    }
}

fn read(path: &Path, owner: &Owner) -> Result<Profile> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map_err(|e| Error::io(e, "read", path))?;
    Profile::decode(&bytes, owner).map_err(|e| e.context(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::block::BlockIndex;

    fn owner(snapshot: &str) -> Owner {
        Owner {
            store: "store".into(),
            snapshot: snapshot.parse().unwrap(),
        }
    }

    #[test]
    fn profiles_are_private_and_anything_else_in_their_place_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("profiles"));
        assert_eq!(files.load(&owner("snap-0a")), None);
        let profile = Profile::default().renewed(&[4, 2].map(BlockIndex::new));
        files.save(&owner("snap-0a"), &profile);
        assert_eq!(files.load(&owner("snap-0a")), Some(profile));
        let path = files.path(&owner("snap-0a"));
        for (path, mode) in [(&*files.directory, 0o700), (&*path, 0o600)] {
            let is = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(is & 0o777, mode, "{path:?}");
        }
        // Put where another's should be, damaged, endless, and something else altogether.
        fs::copy(&path, files.path(&owner("snap-0b"))).unwrap();
        assert_eq!(files.load(&owner("snap-0b")), None);
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        assert_eq!(files.load(&owner("snap-0a")), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(files.load(&owner("snap-0a")), None);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        let names = (0..MOST + 3).map(|n| dir.path().join(n.to_string()));
        for (age, path) in (0..).zip(names) {
            let file = File::create(path).unwrap();
            let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(time).unwrap();
        }
        files.tidy();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MOST);
        assert!(dir.path().join("0").exists());
        assert!(!dir.path().join((MOST + 2).to_string()).exists());
    }
}
