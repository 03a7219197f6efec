//! Numbers out of bytes that may be anything, and the checksum that file systems keep of their metadata.
//!
//! Whatever reaches past an end is `Corrupt`: a caller adds the place.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crc::{CRC_32_ISCSI, Crc, Table};

use super::Kind;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

/// Eight times as fast as the plain table.
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The CRC-32C of several pieces, as iSCSI and XFS have it.
pub(super) fn crc32c(pieces: &[&[u8]]) -> u32 {
    !crc32c_from(u32::MAX, pieces)
}

/// The same with another start and without the last inversion, as ext4 chains it.
pub(super) fn crc32c_from(seed: u32, pieces: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    pieces.iter().for_each(|piece| digest.update(piece));
    !digest.finalize()
}

/// Whether the CRC32C that XFS keeps at byte `at` of `bytes` is that of all of them, with zeros in its own place.
pub(super) fn has_checksum(bytes: &[u8], at: usize) -> Result<bool> {
    let stored: [u8; 4] = be32(bytes, at)?.to_be_bytes();
    let after = at.saturating_add(4);
    let pieces = [
        part(bytes, 0..at)?,
        &[0; 4],
        part(bytes, after..bytes.len())?,
    ];
    Ok(crc32c(&pieces) == u32::from_le_bytes(stored))
}

/// Something on the disk contradicts the format or itself.
pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// `Corrupt` unless `holds`.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(corrupt(what())),
    }
}

/// A part of `bytes`.
pub(super) fn part(bytes: &[u8], range: Range<usize>) -> Result<&[u8]> {
    bytes.get(range.clone()).ok_or_else(|| {
        let (start, end, len) = (range.start, range.end, bytes.len());
        corrupt(format!("bytes {start} to {end} of {len} are spoken of"))
    })
}

/// `len` bytes from `at` on.
pub(super) fn piece(bytes: &[u8], at: usize, len: usize) -> Result<&[u8]> {
    part(bytes, at..at.saturating_add(len))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let mut array = [0; N];
    array.copy_from_slice(piece(bytes, at, N)?);
    Ok(array)
}

pub(super) fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    array(bytes, at).map(u8::from_le_bytes)
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// A UUID at `at`, as it is written; none if it is all zeros.
pub(super) fn uuid(bytes: &[u8], at: usize) -> Result<Option<String>> {
    let bytes: [u8; 16] = array(bytes, at)?;
    if bytes == [0; 16] {
        return Ok(None);
    }
    let hex = hex::encode(bytes);
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(Some(text))
}

/// A label: up to the first NUL, what is no UTF-8 replaced; none if nothing is left.
pub(super) fn label(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Seconds before or after 1970, and nanoseconds after those.
pub(super) fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(whole),
        false => SystemTime::UNIX_EPOCH.checked_add(whole),
    };
    // A second has no more; what says so is damage, and no reason to hide the file.
    let rest = Duration::from_nanos(u64::from(nanoseconds.min(999_999_999)));
    time.and_then(|time| time.checked_add(rest))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What the upper bits of a mode say, with `numbers` of a device.
pub(super) fn kind(mode: u16, numbers: impl FnOnce() -> Result<(u32, u32)>) -> Result<Kind> {
    Ok(match mode >> 12 {
        0o01 => Kind::Fifo,
        0o02 => {
            let (major, minor) = numbers()?;
            Kind::CharDevice { major, minor }
        }
        0o04 => Kind::Directory,
        0o06 => {
            let (major, minor) = numbers()?;
            Kind::BlockDevice { major, minor }
        }
        0o10 => Kind::File,
        0o12 => Kind::Symlink,
        0o14 => Kind::Socket,
        _ => return Err(corrupt(format!("its mode {mode:#o} is of no kind"))),
    })
}

/// Whether a directory may hold this name.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// A POSIX ACL as a file system keeps it, entry by entry, in the form in which the kernel hands it to programs.
pub(super) fn posix_acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Reads what a file system says is there: past the end of what it lies on is damage, and no misuse.
pub(super) fn read_disk(disk: &Arc<dyn ReadAt>, offset: u64, buf: &mut [u8]) -> Result<()> {
    let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
    ensure(offset.saturating_add(len) <= disk.size(), || {
        let size = disk.size();
        format!(
            "{len} bytes at byte {offset} are past the end of what the file system lies on, at {size}"
        )
    })?;
    // What is at hand costs no switch to the runtime.
    if disk.try_read_at(offset, buf)? {
        return Ok(());
    }
    disk.read_at(offset, buf)
}

/// Places that are nearer to each other are most likely brought together.
const NEAR: u64 = 256 << 10;

/// Places that are brought at one time.
const TOGETHER: usize = 32;

/// Has what lies at these places brought to where it can be read without waiting, many at a time, and waits for all.
pub(super) fn bring(disk: &dyn ReadAt, mut places: Vec<u64>) {
    places.sort_unstable();
    places.dedup_by_key(|place| *place / NEAR);
    let is_away = |place: &u64| {
        *place < disk.size() && matches!(disk.try_read_at(*place, &mut [0]), Ok(false))
    };
    for places in places.chunks(TOGETHER) {
        let away: Vec<_> = places.iter().copied().filter(is_away).collect();
        // One alone is as soon there when it is asked for.
        if away.len() < 2 {
            continue;
        }
        std::thread::scope(|scope| {
            for place in away {
                // A failure is met again by whoever needs the place, a thread that cannot be had is not needed.
                let bring = move || drop(disk.read_at(place, &mut [0]));
                drop(std::thread::Builder::new().spawn_scoped(scope, bring));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0; 10], &[], &[0; 22]]), 0x8a91_36aa);
        assert_eq!(crc32c_from(u32::MAX, &[&[0; 32]]), !0x8a91_36aa);
    }

    #[test]
    fn times_before_1970_are_times() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(time(-1, 500_000_000), before);
        // However far away: at least it does not panic.
        assert!(time(i64::MIN, 0) < before && time(i64::MAX, u32::MAX) > before);
    }

    #[test]
    fn what_is_no_name_is_none() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name(b"...") && is_name(b"\xff\n"));
    }
}
