//! A tar stream as the destination: POSIX.1-2001 (pax), as GNU tar, bsdtar and libraries read it.
//!
//! The crate `tar` makes headers and records; the stream is written here, so that one which was broken off never looks
//! complete. Holes are left out, in GNU's sparse format 1.0. A header says how long a file is before it is read: what
//! cannot be read of it then is zeros, and told.

use std::io::{self, BufWriter, Write};
use std::mem;
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use super::contents::{Contents, pieces};
use super::kept::{is_kept, mode, seconds};
use super::target::{Item, Target};
use super::{Recovery, Trouble};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::Kind;

/// The unit of the format.
const UNIT: usize = 512;

/// Bytes that are read and written at one time.
const PIECE: usize = 256 << 10;

/// What octal digits hold in a header: of an owner, and of a size or a time.
const MOST_ID: u32 = 0o7_777_777;
const MOST_NUMBER: u64 = 0o77_777_777_777;

/// A stream of files.
pub struct Archive {
    recovery: Arc<Recovery>,
    out: BufWriter<Box<dyn Write>>,
    /// Makes headers, and is empty between them.
    heads: Builder<Vec<u8>>,
    /// What all paths begin with.
    prefix: &'static [u8],
}

/// The header of a file, and the records that say what does not fit into it.
struct Head {
    header: Header,
    records: Vec<(String, Vec<u8>)>,
}

impl Archive {
    /// Writes to `out`.
    pub fn new(out: Box<dyn Write>, recovery: &Arc<Recovery>) -> Self {
        Self {
            recovery: Arc::clone(recovery),
            out: BufWriter::with_capacity(PIECE, out),
            heads: Builder::new(vec![]),
            prefix: b"",
        }
    }

    /// All was written that there is.
    pub fn end(mut self) -> Result<(), Trouble> {
        let zeros = [0; 2 * UNIT];
        let ended = self.out.write_all(&zeros).and_then(|()| self.out.flush());
        ended.map_err(broken)
    }

    fn head(&self, item: &Item<'_>, kind: EntryType) -> Result<Head> {
        let mut head = Head {
            header: Header::new_ustar(),
            records: vec![],
        };
        let (metadata, privileged) = (item.metadata, self.recovery.options.setuid);
        head.header.set_entry_type(kind);
        head.header.set_mode(mode(metadata.mode, privileged));
        head.header.set_size(0);
        head.name(&self.path_of(item));
        head.id("uid", metadata.uid, |header, id| header.set_uid(id));
        head.id("gid", metadata.gid, |header, id| header.set_gid(id));
        let (whole, nanoseconds) = seconds(metadata.modified);
        let fits = u64::try_from(whole).ok();
        let fits = fits.filter(|whole| *whole <= MOST_NUMBER);
        head.header.set_mtime(fits.unwrap_or(0));
        if nanoseconds > 0 || fits.is_none() {
            head.record("mtime", decimal(whole, nanoseconds).into_bytes());
        }
        if kind != EntryType::Link {
            for (name, value) in &item.xattrs {
                if is_kept(name, privileged, true) {
                    head.xattr(name, value)?;
                }
            }
        }
        Ok(head)
    }

    fn path_of(&self, item: &Item<'_>) -> Vec<u8> {
        let slash: &[u8] = match item.metadata.kind {
            Kind::Directory if !item.path.is_empty() => b"/",
            _ => b"",
        };
        [self.prefix, item.path, slash].concat()
    }

    fn write_head(&mut self, mut head: Head) -> Result<(), Trouble> {
        let records = head.records.iter();
        let records = records.map(|(key, value)| (&**key, &**value));
        self.heads.append_pax_extensions(records).map_err(broken)?;
        head.header.set_cksum();
        let appended = self.heads.append(&head.header, io::empty());
        appended.map_err(broken)?;
        let bytes = mem::take(self.heads.get_mut());
        self.out.write_all(&bytes).map_err(broken)
    }

    fn pad(&mut self, written: u64) -> Result<(), Trouble> {
        let zeros = [0; UNIT];
        let pad = zeros.get(..padding(written)).unwrap_or_default();
        self.out.write_all(pad).map_err(broken)
    }
}

impl Head {
    fn record(&mut self, key: &str, value: Vec<u8>) {
        self.records.push((key.to_owned(), value));
    }

    fn name(&mut self, path: &[u8]) {
        if !put(path, &mut self.header.as_old_mut().name) {
            self.record("path", path.to_vec());
        }
    }

    fn target(&mut self, path: &[u8]) {
        if !put(path, &mut self.header.as_old_mut().linkname) {
            self.record("linkpath", path.to_vec());
        }
    }

    fn id(&mut self, key: &str, id: u32, set: fn(&mut Header, u64)) {
        match id {
            id if id <= MOST_ID => set(&mut self.header, id.into()),
            id => {
                set(&mut self.header, 0);
                self.record(key, id.to_string().into_bytes());
            }
        }
    }

    fn size(&mut self, size: u64) {
        match size {
            size if size <= MOST_NUMBER => self.header.set_size(size),
            size => self.record("size", size.to_string().into_bytes()),
        }
    }

    /// As star does it, and GNU tar and Docker after it.
    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let name = std::str::from_utf8(name).map_err(|_| {
            let what = "the name of an extended attribute is no text, as an archive wants it";
            Error::new(ErrorKind::Unsupported, what)
        })?;
        // An equals sign ends a record's key.
        let name = name.replace('%', "%25").replace('=', "%3D");
        self.record(&format!("SCHILY.xattr.{name}"), value.to_vec());
        Ok(())
    }

    /// A file that has holes: what is stored begins with a map of its data, which is returned.
    fn sparse(&mut self, path: &[u8], contents: &Contents<'_>) -> Vec<u8> {
        let mut map: Vec<_> = contents
            .data
            .iter()
            .map(|range| (range.start, range.end.saturating_sub(range.start)))
            .collect();
        if contents
            .data
            .last()
            .is_none_or(|last| last.end < contents.size)
        {
            map.push((contents.size, 0));
        }
        let mut text = format!("{}\n", map.len());
        for (start, len) in map {
            text.push_str(&format!("{start}\n{len}\n"));
        }
        let mut text = text.into_bytes();
        let pad = padding(u64::try_from(text.len()).unwrap_or_default());
        text.resize(text.len().saturating_add(pad), 0);
        self.record("GNU.sparse.major", b"1".into());
        self.record("GNU.sparse.minor", b"0".into());
        self.record("GNU.sparse.name", path.to_vec());
        let size = contents.size.to_string().into_bytes();
        self.record("GNU.sparse.realsize", size);
        text
    }
}

impl Target for Archive {
    fn room_for(&self, contents: &Contents<'_>) -> u64 {
        contents.bytes()
    }

    fn has(&self, _item: &Item<'_>) -> bool {
        false
    }

    fn enter(&mut self, item: &Item<'_>) -> Result<(), Trouble> {
        if item.path.is_empty() {
            self.prefix = b"./";
        }
        let head = self.head(item, EntryType::Directory)?;
        self.write_head(head)
    }

    fn leave(&mut self) {}

    fn file(&mut self, item: &Item<'_>, contents: &Contents<'_>) -> Result<(), Trouble> {
        let mut head = self.head(item, EntryType::Regular)?;
        let data = contents.bytes();
        let map = match data < contents.size {
            true => head.sparse(&self.path_of(item), contents),
            false => vec![],
        };
        let map_len = u64::try_from(map.len()).unwrap_or_default();
        head.size(data.saturating_add(map_len));
        // One that cannot be read at all is better left out.
        let mut buffer = vec![0; PIECE.min(usize::try_from(data).unwrap_or(PIECE))];
        let all = contents.data.iter().cloned();
        let mut all = all.flat_map(|range| pieces(range, PIECE)).peekable();
        let mut failed = None;
        if let Some((offset, len)) = all.peek() {
            let piece = buffer.get_mut(..*len).unwrap_or_default();
            contents.read(*offset, piece)?;
        }
        self.write_head(head)?;
        self.out.write_all(&map).map_err(broken)?;
        let mut is_first = true;
        for (offset, len) in all {
            self.recovery.stop_if_interrupted()?;
            let piece = buffer.get_mut(..len).unwrap_or_default();
            if !mem::take(&mut is_first) && failed.is_none() {
                failed = contents.read(offset, piece).err().map(|e| (offset, e));
            }
            if failed.is_some() {
                piece.fill(0);
            }
            self.out.write_all(piece).map_err(broken)?;
            let len = u64::try_from(len).unwrap_or_default();
            self.recovery.add(|tally| &tally.bytes, len);
        }
        self.pad(data)?;
        match failed {
            None => {
                self.recovery.add(|tally| &tally.files, 1);
                Ok(())
            }
            Some((offset, error)) => {
                let what = format!("the archive has zeros from byte {offset} of it on");
                Err(error.context(what).into())
            }
        }
    }

    fn symlink(&mut self, item: &Item<'_>, target: &[u8]) -> Result<(), Trouble> {
        let mut head = self.head(item, EntryType::Symlink)?;
        head.target(target);
        self.write_head(head)
    }

    fn link(&mut self, item: &Item<'_>, first: &[u8]) -> Result<(), Trouble> {
        let mut head = self.head(item, EntryType::Link)?;
        head.target(&[self.prefix, first].concat());
        self.write_head(head)
    }

    fn special(&mut self, item: &Item<'_>) -> Result<(), Trouble> {
        let (kind, numbers) = match item.metadata.kind {
            Kind::CharDevice { major, minor } => (EntryType::Char, Some((major, minor))),
            Kind::BlockDevice { major, minor } => (EntryType::Block, Some((major, minor))),
            Kind::Fifo => (EntryType::Fifo, None),
            Kind::Socket => {
                let what = "an archive holds no sockets";
                return Err(Error::new(ErrorKind::Unsupported, what).into());
            }
            Kind::File | Kind::Directory | Kind::Symlink => return Ok(()),
        };
        let mut head = self.head(item, kind)?;
        if let Some((major, minor)) = numbers {
            let set = head.header.set_device_major(major);
            set.and_then(|()| head.header.set_device_minor(minor))
                .map_err(Error::from)?;
        }
        self.write_head(head)
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        self.out.flush().map_err(broken)
    }
}

/// Bytes up to whole units.
fn padding(len: u64) -> usize {
    let unit = u64::try_from(UNIT).unwrap_or(1);
    let over = len.checked_rem(unit).unwrap_or_default();
    let pad = unit.saturating_sub(over).checked_rem(unit);
    usize::try_from(pad.unwrap_or_default()).unwrap_or_default()
}

/// Whether all of a text fits into a field of a header; else its beginning is there.
fn put(text: &[u8], field: &mut [u8]) -> bool {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
    text.len() <= field.len()
}

/// With a fraction, which is of seconds upwards.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds >= 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    let (whole, fraction) = match nanoseconds {
        0 => (seconds.saturating_neg(), 0),
        nanoseconds => (
            seconds.saturating_neg().saturating_sub(1),
            1_000_000_000_u32.saturating_sub(nanoseconds),
        ),
    };
    format!("-{whole}.{fraction:09}")
}

fn broken(error: io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Trouble::ReaderGone,
        _ => Trouble::All(Error::from(error).context("cannot write the archive")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_written_as_decimals() {
        assert_eq!(decimal(5, 7), "5.000000007");
        assert_eq!(decimal(-5, 0), "-5.000000000");
        assert_eq!(decimal(-6, 999_999_993), "-5.000000007");
        assert_eq!(decimal(-1, 500_000_000), "-0.500000000");
    }

    #[test]
    fn units_are_filled_up() {
        let paddings = [0, 1, 511, 512, 513].map(padding);
        assert_eq!(paddings, [0, 511, 1, 0, 511]);
    }
}
