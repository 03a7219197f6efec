//! Files of snapshots as they are shown: names, modes, times, JSON; and what is said of those that cannot be read.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Outcome, Stop, tell};
use crate::error::Error;
use crate::filesystem::{Kind, Metadata, Node};

/// Stdout, for results that come one by one.
pub(super) struct Out {
    stdout: BufWriter<Stdout>,
    terminal: bool,
    /// Objects that were printed.
    printed: u64,
}

impl Out {
    pub(super) fn new() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            stdout: BufWriter::with_capacity(64 << 10, stdout),
            printed: 0,
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Outcome {
        told(self.stdout.write_all(bytes))
    }

    /// A name, with what could steer a terminal escaped if it is one.
    pub(super) fn put_name(&mut self, name: &[u8]) -> Outcome {
        let name = match self.terminal {
            true => Cow::Owned(escaped(name)),
            false => Cow::Borrowed(name),
        };
        self.put(&name)
    }

    /// The next element of an array that is printed as it comes.
    pub(super) fn put_object(&mut self, object: &Value) -> Outcome {
        let before: &[u8] = if self.printed == 0 {
            b"[\n  "
        } else {
            b",\n  "
        };
        self.printed += 1;
        self.put(before)?;
        self.put(object.to_string().as_bytes())
    }

    /// Ends the array.
    pub(super) fn end_array(&mut self) -> Outcome {
        let end: &[u8] = if self.printed == 0 { b"[]\n" } else { b"\n]\n" };
        self.put(end)
    }

    pub(super) fn flush(&mut self) -> Outcome {
        told(self.stdout.flush())
    }
}

/// What became of writing to stdout.
pub(super) fn told(written: io::Result<()>) -> Outcome {
    written.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Stop::BrokenPipe,
        _ => Error::from(e).context("cannot write to stdout").into(),
    })
}

/// A name in which no byte steers a terminal, and from which it can still be told what it is.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() || turns => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.into_bytes()
}

/// What could not be read, said one by one and counted.
#[derive(Default)]
pub(super) struct Failures(u64);

impl Failures {
    /// Says what is wrong with a file.
    pub(super) fn say(&mut self, e: &Error) {
        self.0 += 1;
        let text = format!("{e:#}");
        // Names in it are not to be trusted.
        tell(&String::from_utf8_lossy(&escaped(text.as_bytes())).replace("\\\\", "\\"));
    }

    /// Exit code 1 if there were any; `what` is one of them.
    pub(super) fn end(self, what: &str) -> Outcome {
        match self.0 {
            0 => return Ok(()),
            1 => tell(&format!("1 {what} could not be read; all else was")),
            failed => tell(&format!("{failed} {what}s could not be read; all else was")),
        }
        Err(Stop::Told(1))
    }
}

/// A path as text, for messages.
pub(super) fn shown(path: &[u8]) -> String {
    OsStr::from_bytes(path).display().to_string()
}

/// The letter that `ls` and `find` have for a kind.
pub(super) fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    }
}

/// As `ls -l` shows it.
pub(super) fn mode_text(metadata: &Metadata) -> String {
    let mode = metadata.mode;
    let mut text = String::from(letter(metadata.kind));
    // Three bits for each of owner, group and others, and what setuid, setgid and sticky make of the last.
    for (shift, special, letters) in [
        (6, 0o4000, ('s', 'S')),
        (3, 0o2000, ('s', 'S')),
        (0, 0o1000, ('t', 'T')),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letters.0,
            (true, false) => letters.1,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// To the second, in UTC.
pub(super) fn time_text(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        // Without a fraction it goes down, as `ls` does, and not towards 1970.
        Ok(time) => {
            let floor = if time.subsec_nanosecond() < 0 { 1 } else { 0 };
            let floor = Timestamp::from_second(time.as_second().saturating_sub(floor));
            floor.unwrap_or(time).to_string()
        }
        Err(_) => "-".into(),
    }
}

/// To the nanosecond.
fn time_json(time: SystemTime) -> Value {
    match Timestamp::try_from(time) {
        Ok(time) => json!(time),
        Err(_) => Value::Null,
    }
}

/// Sets `name` to bytes as text, and beside it `name_hex` if they are no text.
pub(super) fn set_bytes(value: &mut Value, name: &str, bytes: &[u8]) {
    value[name] = json!(String::from_utf8_lossy(bytes));
    if str::from_utf8(bytes).is_err() {
        value[format!("{name}_hex")] = json!(hex::encode(bytes));
    }
}

/// A file as programs read it.
pub(super) fn as_json(
    path: &[u8],
    node: Node,
    metadata: &Metadata,
    target: Option<&[u8]>,
) -> Value {
    let mut value = json!({});
    set_bytes(&mut value, "path", path);
    let kind = match metadata.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::CharDevice { .. } => "char-device",
        Kind::BlockDevice { .. } => "block-device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    };
    value["type"] = json!(kind);
    value["inode"] = json!(node.number());
    value["mode"] = json!(format!("{:04o}", metadata.mode));
    value["links"] = json!(metadata.links);
    value["uid"] = json!(metadata.uid);
    value["gid"] = json!(metadata.gid);
    value["size"] = json!(metadata.size);
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = metadata.kind {
        value["device"] = json!([major, minor]);
    }
    value["accessed"] = time_json(metadata.accessed);
    value["modified"] = time_json(metadata.modified);
    value["changed"] = time_json(metadata.changed);
    if let Some(target) = target {
        set_bytes(&mut value, "target", target);
    }
    value
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn metadata(kind: Kind, mode: u32) -> Metadata {
        let time = SystemTime::UNIX_EPOCH;
        Metadata {
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            accessed: time,
            modified: time,
            changed: time,
        }
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        let cases = [
            (Kind::File, 0o644, "-rw-r--r--"),
            (Kind::Directory, 0o1777, "drwxrwxrwt"),
            (Kind::File, 0o4755, "-rwsr-xr-x"),
            (Kind::File, 0o6640, "-rwSr-S---"),
            (Kind::Symlink, 0o777, "lrwxrwxrwx"),
            (Kind::Directory, 0o1000, "d--------T"),
        ];
        for (kind, mode, text) in cases {
            assert_eq!(mode_text(&metadata(kind, mode)), text);
        }
    }

    #[test]
    fn times_before_1970_go_down_to_the_second() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(time_text(before), "1969-12-31T23:59:58Z");
        let after = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(time_text(after), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn no_name_steers_a_terminal() {
        let shown = escaped("a\x1b[2J\n\u{202e}\\ü".as_bytes());
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "a\\u{1b}[2J\\n\\u{202e}\\\\ü"
        );
        assert_eq!(escaped(b"\xff\xfe"), b"\\xff\\xfe");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_in_full() {
        let value = as_json(b"/a\xff", Node::new(1), &metadata(Kind::File, 0o644), None);
        assert_eq!(value["path_hex"], "2f61ff");
        assert_eq!(value["mode"], "0644");
    }
}
