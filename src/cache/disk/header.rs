//! How the tables of a snapshot begin: with what they are, in which version, and of which snapshot.
//!
//! ```text
//! magic      8 bytes: which table
//! version    u32: 1
//! zeros      20 bytes
//! key        32 bytes: the key of the snapshot's directory
//! ```
//! Numbers are little-endian here and in the tables. All of a header is known before it is read, so it needs no checksum.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::private::{self, Mode};
use crate::block::{Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};

const VERSION: u32 = 1;
const LEN: usize = 64;

/// Where a table's contents begin.
pub(super) const END: u64 = 64;

/// The table `magic` at `path`; one that is empty or missing is made if `mode` says so. `Corrupt` if it is another's.
pub(super) fn open(path: &Path, magic: &[u8; 8], key: &Digest, mode: Mode) -> Result<Option<File>> {
    let Some(file) = private::open(path, mode)? else {
        return Ok(None);
    };
    let mut header = [0; LEN];
    header[..8].copy_from_slice(magic);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[32..].copy_from_slice(key.as_bytes());
    let cannot = |deed| move |e| Error::io(e, deed, path);
    if mode != Mode::Existing && file.metadata().map_err(cannot("look at"))?.len() == 0 {
        file.write_all_at(&header, 0).map_err(cannot("write"))?;
    }
    let mut found = [0; LEN];
    let read = file.read_exact_at(&mut found, 0);
    if read.is_ok() && found == header {
        return Ok(Some(file));
    }
    let what = format!("{} does not begin as it should", path.display());
    Err(Error::new(ErrorKind::Corrupt, what))
}

/// The first `N` bytes of the SHA-256 of a snapshot's key and `parts`: a checksum that no other snapshot's bytes have.
pub(super) fn bound<const N: usize>(key: &Digest, parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = Hasher::default();
    hasher.update(key.as_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    let mut sum = [0; N];
    let digest = hasher.finish();
    sum.iter_mut()
        .zip(digest.as_bytes())
        .for_each(|(to, from)| *to = *from);
    sum
}
