//! The picture in characters, with colours where they can be seen.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use indicatif::HumanBytes;
use rustix::termios::tcgetwinsize;

use super::super::list::printable;
use super::picture::{Counts, Look, Part, Picture};
use super::{Subject, exactly, title};
use crate::block::bytes_of;
use crate::partition::Partition;

/// How the terminal is drawn on.
pub(super) struct Looks {
    columns: usize,
    lines: usize,
    /// Whether there are more characters than ASCII's.
    unicode: bool,
    colours: bool,
}

/// Before the cells: where the row begins, as in `33920 GiB`, and two blanks.
const MARGIN: usize = 11;
/// Behind them, at least: two blanks and the name of a partition.
const NAMES: usize = 5;
/// Rows of a picture, where there is room.
const ROWS: usize = 32;
/// Lines for the rest: what it is of, the legend, a few partitions, the next prompt.
const OTHER_LINES: usize = 14;

impl Looks {
    /// As stdout is: plain if it is no terminal.
    pub(super) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let set = |name| {
            env::var(name)
                .ok()
                .filter(|value: &String| !value.is_empty())
        };
        let size = tcgetwinsize(&stdout).ok().filter(|size| size.ws_col > 0);
        let columns = match &size {
            Some(size) => Some(size.ws_col.into()),
            None => set("COLUMNS").and_then(|columns| columns.parse().ok()),
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self {
            columns: columns.unwrap_or(80),
            lines: size.map_or(usize::from(u8::MAX), |size| size.ws_row.into()),
            unicode: is_terminal && (locale.ends_with("utf-8") || locale.ends_with("utf8")),
            colours: is_terminal && !dumb && set("NO_COLOR").is_none(),
        }
    }

    /// A picture that has room. Rows of a power of two begin at round offsets.
    pub(super) fn canvas(&self, count: u32, partitions: Vec<Partition>) -> Picture {
        let room = self.columns.saturating_sub(MARGIN + NAMES).clamp(8, 512);
        let columns = 1 << room.ilog2();
        let rows = self.lines.saturating_sub(OTHER_LINES).clamp(8, ROWS);
        Picture::new(count, columns, rows, partitions)
    }

    pub(super) fn draw(&self, picture: &Picture, subject: &Subject) -> String {
        let mut text = format!(
            "{}\n{:MARGIN$}a cell is {}\n\n",
            title(subject),
            "",
            exactly(picture.cell_bytes())
        );
        let mut rows = picture.rows().peekable();
        while let Some((start, cells)) = rows.next() {
            let end = rows.peek().map_or(u64::MAX, |(start, _)| *start);
            let _ = write!(text, "{:>width$}  ", exactly(start), width = MARGIN - 2);
            for same in cells.chunk_by(|a, b| a.look() == b.look()) {
                self.cells(&mut text, same);
            }
            let missing = picture.columns - cells.len();
            let room = self.columns.saturating_sub(MARGIN + picture.columns + 2);
            let names = names(picture.parts_in(start..end), room);
            let line = format!("{:missing$}  {names}", "");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
        self.legend(&mut text, picture, subject);
        if !picture.parts.is_empty() {
            text.push('\n');
        }
        for part in &picture.parts {
            let _ = writeln!(text, "{}", described(part, subject));
        }
        text
    }

    /// Cells that look alike.
    fn cells(&self, text: &mut String, cells: &[Counts]) {
        if let Some(look) = cells.first().map(Counts::look) {
            self.coloured(text, look, &self.character(look).repeat(cells.len()));
        }
    }

    fn coloured(&self, text: &mut String, look: Look, what: &str) {
        if !self.colours {
            text.push_str(what);
            return;
        }
        let colour = match look {
            Look::Absent => "90",
            Look::Sparse | Look::Dense => "94",
            Look::PartlyCached | Look::Cached => "32",
            Look::Changed => "1;31",
        };
        let _ = write!(text, "\u{1b}[{colour}m{what}\u{1b}[0m");
    }

    /// Each can be told from the others without colours.
    fn character(&self, look: Look) -> &'static str {
        match (look, self.unicode) {
            (Look::Absent, true) => "·",
            (Look::Sparse, true) => "░",
            (Look::Dense, true) => "▒",
            (Look::PartlyCached, true) => "▓",
            (Look::Cached, true) => "█",
            (Look::Changed, true) => "◆",
            (Look::Absent, false) => ".",
            (Look::Sparse, false) => "-",
            (Look::Dense, false) => "=",
            (Look::PartlyCached, false) => "+",
            (Look::Cached, false) => "#",
            (Look::Changed, false) => "*",
        }
    }

    fn legend(&self, text: &mut String, picture: &Picture, subject: &Subject) {
        let total = &picture.total;
        let mut line = |looks: &[Look], what: &str, blocks: u32, more: &str| {
            let _ = write!(text, "{:width$}", "", width = MARGIN);
            for look in looks {
                self.coloured(text, *look, self.character(*look));
            }
            let line = format!(
                "{:pad$} {what:8} {blocks:>10} blocks  {:>10}  {more}",
                "",
                HumanBytes(bytes_of(blocks.into())).to_string(),
                pad = 2 - looks.len(),
            );
            let _ = writeln!(text, "{}", line.trim_end());
        };
        line(&[Look::Absent], "absent", total.blocks - total.present, "");
        line(
            &[Look::Sparse, Look::Dense],
            "present",
            total.present,
            "up to half of a cell, or more",
        );
        if subject.may_be_cached {
            let looks = [Look::PartlyCached, Look::Cached];
            line(
                &looks,
                "cached",
                total.cached,
                "of these, on this machine's disk",
            );
        }
        if let Some(since) = &subject.since {
            let more = format!("since {since}");
            line(&[Look::Changed], "changed", total.changed, &more);
        }
    }
}

/// The names of partitions beside a row, as many as there is room for; a plus stands for others.
fn names<'a>(parts: impl Iterator<Item = &'a Part>, room: usize) -> String {
    let mut names = String::new();
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let name = format!("p{}", part.partition.number);
        let blank = usize::from(!names.is_empty());
        let more = usize::from(parts.peek().is_some());
        if names.len() + blank + name.len() + more > room {
            names.push('+');
            return names;
        }
        names.push_str(if names.is_empty() { "" } else { " " });
        names.push_str(&name);
    }
    names
}

/// A partition in a line.
fn described(part: &Part, subject: &Subject) -> String {
    let partition = &part.partition;
    let range = &partition.range;
    let mut text = format!(
        "{:>width$}  {} at byte {}, {} present",
        format!("p{}", partition.number),
        HumanBytes(range.end - range.start),
        range.start,
        HumanBytes(bytes_of(part.counts.present.into())),
        width = MARGIN - 2,
    );
    if subject.may_be_cached {
        let cached = HumanBytes(bytes_of(part.counts.cached.into()));
        let _ = write!(text, ", {cached} cached");
    }
    if subject.since.is_some() {
        let changed = HumanBytes(bytes_of(part.counts.changed.into()));
        let _ = write!(text, ", {changed} changed");
    }
    if !partition.name.is_empty() {
        let _ = write!(text, ", {}", printable(&partition.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::picture::Mark;
    use super::*;
    use crate::snapshot::{SnapshotInfo, Status, VolumeSize};

    fn subject() -> Subject {
        Subject {
            info: SnapshotInfo {
                id: "snap-0b".parse().unwrap(),
                parent: None,
                volume_size: VolumeSize::from_gib(1).unwrap(),
                status: Status::Completed,
                start_time: None,
                description: String::new(),
                tags: Default::default(),
                encryption: None,
            },
            since: Some("snap-0a".parse().unwrap()),
            may_be_cached: true,
        }
    }

    fn drawn(looks: &Looks) -> String {
        let partition = Partition {
            number: 1,
            range: 1 << 20..512 << 20,
            kind: "0x83".into(),
            name: "ro\u{1b}ot".into(),
        };
        let mut picture = looks.canvas(2048, vec![partition]);
        picture.mark(Mark::Present, 0..900);
        picture.mark(Mark::Cached, 100..200);
        picture.mark(Mark::Changed, 890..910);
        looks.draw(&picture, &subject())
    }

    const PLAIN: Looks = Looks {
        columns: 80,
        lines: 30,
        unicode: false,
        colours: false,
    };

    #[test]
    fn no_line_is_wider_than_the_terminal_and_plain_ones_are_ascii() {
        for columns in [20, 40, 80, 100, 200] {
            let text = drawn(&Looks { columns, ..PLAIN });
            assert!(text.is_ascii() || text.contains(char::REPLACEMENT_CHARACTER));
            let grid = text.lines().filter(|line| line.contains("=="));
            assert!(grid.clone().count() > 2, "{text}");
            for line in grid {
                assert!(line.len() <= columns.max(MARGIN + 8 + NAMES), "{line:?}");
            }
        }
    }

    #[test]
    fn colours_only_where_they_are_wanted_and_signs_without_them() {
        let plain = drawn(&PLAIN);
        assert!(!plain.contains('\u{1b}'), "{plain}");
        for sign in ['.', '-', '=', '+', '#', '*'] {
            assert!(plain.contains(sign), "{sign} is missing: {plain}");
        }
        let coloured = drawn(&Looks {
            colours: true,
            unicode: true,
            ..PLAIN
        });
        for part in ["\u{1b}[1;31m◆", "\u{1b}[32m█", "\u{1b}[90m·", "▒", "░", "▓"] {
            assert!(coloured.contains(part), "{part:?} is missing: {coloured}");
        }
        // What a disk says cannot steer the terminal.
        assert!(coloured.contains("ro\u{fffd}ot"), "{coloured}");
    }
}
