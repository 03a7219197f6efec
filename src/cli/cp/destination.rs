//! Where copies go, in the manner of `cp` and `docker cp`.
//!
//! Into DEST if that is a directory, by the name that they have; else there is one, which becomes DEST. What is in a directory
//! (`DIR/.`, and the root, which has no name) goes into DEST itself. A slash after DEST says that it is a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::super::place::Place;
use crate::durable::parent;
use crate::error::{Error, ErrorKind, Result};

/// What DEST is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Destination {
    /// A directory.
    Into(PathBuf),
    /// Something else, or nothing yet.
    As {
        path: PathBuf,
        directory: PathBuf,
        name: Vec<u8>,
        /// There is a file.
        taken: bool,
        /// A slash says that it is a directory.
        slash: bool,
    },
}

/// A file that is wanted.
pub(super) struct Wanted<'a> {
    /// Its place, for people; for a directory's contents that of the directory.
    pub(super) shown: Vec<u8>,
    /// None for a directory's contents.
    pub(super) name: Option<&'a [u8]>,
    is_directory: bool,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(place: &'a Place, is_directory: bool) -> Self {
        let mut path = &*place.path;
        while let Some(shorter) = path.strip_suffix(b"/") {
            path = shorter;
        }
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = match last {
            b"" | b"." | b".." => None,
            name => Some(name),
        };
        let mut shown = path;
        if last == b"." {
            shown = shown.strip_suffix(b".").unwrap_or(shown);
            while let Some(shorter) = shown.strip_suffix(b"/") {
                shown = shorter;
            }
        }
        let shown = match shown {
            b"" => b"/",
            shown => shown,
        };
        Self {
            shown: [place.disk().as_bytes(), b":", shown].concat(),
            name,
            is_directory,
        }
    }
}

impl Destination {
    /// Looks at DEST, to which so many go.
    pub(super) fn examine(path: &Path, count: usize) -> Result<Self> {
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        let shown = path.display();
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        let taken = match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Ok(Self::Into(path.to_owned())),
            Ok(_) => true,
            // With a slash after it.
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                return invalid(format!("{shown} is no directory"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io(e, "look at", path)),
        };
        if count > 1 {
            return invalid(format!("{shown} is no directory: several files need one"));
        }
        let Some(name) = path.file_name().map(OsStr::as_bytes) else {
            return invalid(format!("{shown} does not exist"));
        };
        let directory = parent(path);
        if !directory.is_dir() {
            let what = format!("there is no directory {}", directory.display());
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        Ok(Self::As {
            path: path.to_owned(),
            directory: directory.to_owned(),
            name: name.to_owned(),
            taken,
            slash,
        })
    }

    /// The directory in which all is made.
    pub(super) fn directory(&self) -> &Path {
        match self {
            Self::Into(directory) | Self::As { directory, .. } => directory,
        }
    }

    /// By which name it is made there; none: what is in it, each by its own.
    pub(super) fn name_for<'n>(&'n self, wanted: &Wanted<'n>) -> Result<Option<&'n [u8]>> {
        match self {
            Self::Into(_) => Ok(wanted.name),
            Self::As {
                path, taken: true, ..
            } if wanted.is_directory => {
                let what = format!(
                    "{} is a file: a directory cannot take its place",
                    path.display()
                );
                Err(Error::new(ErrorKind::Conflict, what))
            }
            Self::As {
                path, slash: true, ..
            } if !wanted.is_directory => {
                let what = format!("there is no directory {}", path.display());
                Err(Error::new(ErrorKind::NotFound, what))
            }
            Self::As { name, .. } => Ok(Some(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wanted(path: &str, is_directory: bool) -> (Option<String>, String) {
        let place = Place::parse(OsStr::new(&format!("snap-0a:{path}"))).unwrap();
        let wanted = Wanted::of(&place, is_directory);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (wanted.name.map(text), text(&wanted.shown))
    }

    #[test]
    fn the_last_name_of_a_path_is_the_copy_s() {
        for (path, name, shown) in [
            ("/etc/fstab", Some("fstab"), "/etc/fstab"),
            ("/etc/", Some("etc"), "/etc"),
            ("etc", Some("etc"), "etc"),
            ("/etc/.", None, "/etc"),
            ("/etc/./", None, "/etc"),
            ("/etc/..", None, "/etc/.."),
            ("/", None, "/"),
            ("/.", None, "/"),
            ("/.hidden", Some(".hidden"), "/.hidden"),
        ] {
            let expected = (name.map(str::to_owned), format!("snap-0a:{shown}"));
            assert_eq!(wanted(path, true), expected, "{path}");
        }
    }

    #[test]
    fn a_copy_goes_where_cp_and_docker_put_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        // DEST, what is copied, whether it is a directory, and where it goes or why not.
        let cases = [
            ("dir", "/a/b", false, Ok("dir/b")),
            ("dir/", "/a/b", true, Ok("dir/b")),
            ("dir", "/a/b/.", true, Ok("dir/")),
            ("dir", "/", true, Ok("dir/")),
            ("new", "/a/b", false, Ok("new")),
            ("new", "/a/b", true, Ok("new")),
            ("new", "/a/b/.", true, Ok("new")),
            ("new/", "/a/b", true, Ok("new")),
            ("new/", "/a/b", false, Err("no directory")),
            ("file", "/a/b", false, Ok("file")),
            ("file", "/a/b", true, Err("is a file")),
            ("file/", "/a/b", false, Err("no directory")),
            ("none/new", "/a/b", false, Err("no directory")),
            ("none/..", "/a/b", false, Err("does not exist")),
        ];
        for (to, path, is_directory, expected) in cases {
            let place = Place::parse(OsStr::new(&format!("snap-0a:{path}"))).unwrap();
            let wanted = Wanted::of(&place, is_directory);
            let goes = || -> Result<String> {
                let at = dir.path().join(to);
                let destination = Destination::examine(&at, 1)?;
                let name = destination.name_for(&wanted)?.unwrap_or_default();
                let below = destination.directory().strip_prefix(dir.path()).unwrap();
                let name = String::from_utf8(name.to_vec()).unwrap();
                Ok(match below.to_str().unwrap() {
                    "" => name,
                    below => format!("{below}/{name}"),
                })
            };
            match (goes(), expected) {
                (Ok(goes), Ok(expected)) => assert_eq!(goes, expected, "{path} to {to}"),
                (Err(e), Err(why)) => assert!(e.to_string().contains(why), "{path} to {to}: {e}"),
                (goes, _) => panic!("{path} to {to}: {goes:?}"),
            }
        }
        let several = Destination::examine(&dir.path().join("new"), 2).unwrap_err();
        assert!(several.to_string().contains("several"), "{several}");
    }
}
