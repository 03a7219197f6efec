//! What may be the name of a file here, and a path below the destination.

use crate::error::{Error, ErrorKind, Result};

/// As Linux has it.
const MAX_NAME: usize = 255;

/// As Linux has it, with the NUL.
const MAX_TARGET: usize = 4095;

/// `Corrupt` unless a directory can hold it: a name that is a path, or none, leads out of the destination.
pub(super) fn check(name: &[u8]) -> Result<()> {
    let wrong = match name {
        b"" | b"." | b".." => "is no name of a file",
        name if name.contains(&b'/') => "has a slash in it",
        name if name.contains(&0) => "has a NUL in it",
        name if name.len() > MAX_NAME => "is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("the name {:?} {wrong}", String::from_utf8_lossy(name)),
    ))
}

/// `Corrupt` unless a symbolic link can hold it. Where it points is not looked at, as it is not followed.
pub(super) fn check_target(target: &[u8]) -> Result<()> {
    let wrong = match target {
        b"" => "is empty",
        target if target.contains(&0) => "has a NUL in it",
        target if target.len() > MAX_TARGET => "is longer than 4095 bytes",
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("the target of the link {wrong}"),
    ))
}

/// `name` in the directory `path`.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path if path.ends_with(b"/") => [path, name].concat(),
        path => [path, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_name() {
        for good in [&b"a"[..], b"...", b".a", b"..a", b"\n\xff", &[b'x'; 255]] {
            check(good).unwrap();
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        check_target(b"../../etc/passwd").unwrap();
        for bad in [&b""[..], b"a\0b", &[b'x'; 4096]] {
            assert_eq!(check_target(bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"snap-0a:/", b"a"), b"snap-0a:/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }
}
