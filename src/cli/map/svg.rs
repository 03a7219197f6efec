//! The picture as SVG: one file that needs no other, for a browser, a report or a page.
//!
//! Above, the partitions in proportion; then the cells in rows, each row with its offset and its partitions, whose
//! colours underline their cells; below, what the colours mean, and the partitions in numbers.

use std::fmt::Write as _;
use std::ops::Range;

use indicatif::HumanBytes;
use quick_xml::escape::escape;

use super::super::list::printable;
use super::picture::{Counts, Look, Part, Picture};
use super::{Subject, exactly, title};
use crate::block::bytes_of;
use crate::partition::Partition;

const COLUMNS: usize = 128;
const ROWS: usize = 64;

/// Pixels of a cell, and from one to the next, across and down: the partition's line lies below.
const CELL: usize = 7;
const ACROSS: usize = 8;
const DOWN: usize = 11;

const LEFT: usize = 84;
const RIGHT: usize = 104;
const TOP: usize = 116;
const BAR: usize = 28;
const LINE: usize = 20;

/// Colours of partitions, in turn; none of them is one of a cell's.
const PARTS: [&str; 6] = [
    "#7b6bb5", "#c39a1c", "#4a8fa8", "#7f8894", "#a8658a", "#7d8b3c",
];

const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#333b44}\
.t{font-size:16px;font-weight:600;fill:#1b2026}\
.s{fill:#6b7681}\
.o{text-anchor:end;font-size:10px;fill:#6b7681}\
.n{font-size:10px}\
.b{fill:#fff;font-weight:600}\
.absent{fill:#e6eaee}\
.sparse{fill:#9ec1e6}\
.dense{fill:#3f7fc4}\
.partly{fill:#93cfb0}\
.cached{fill:#2c9c69}\
.changed{fill:#e2542b}";

pub(super) fn canvas(count: u32, partitions: Vec<Partition>) -> Picture {
    Picture::new(count, COLUMNS, ROWS, partitions)
}

pub(super) fn draw(picture: &Picture, subject: &Subject) -> String {
    let rows = picture.rows().count();
    let grid = LEFT..LEFT + COLUMNS * ACROSS;
    let width = grid.end + RIGHT;
    let legend = TOP + rows * DOWN + 28;
    let table = legend + LINE + 14;
    let height = table + picture.parts.len() * LINE + 8;
    let title = escape(title(subject)).into_owned();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text class=\"t\" x=\"{LEFT}\" y=\"34\">{title}</text>\n\
         <text class=\"s\" x=\"{LEFT}\" y=\"54\">a cell is {}</text>\n",
        exactly(picture.cell_bytes())
    );
    bar(&mut svg, picture, &grid);
    cells(&mut svg, picture);
    underlines(&mut svg, picture);
    labels(&mut svg, picture, grid.end + 8);
    explain(&mut svg, picture, subject, legend);
    for (number, part) in picture.parts.iter().enumerate() {
        describe(&mut svg, part, number, subject, table + number * LINE);
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour_of(part: usize) -> &'static str {
    PARTS.get(part % PARTS.len()).copied().unwrap_or("#888")
}

/// The partitions in proportion to the disk, with their names where they fit.
fn bar(svg: &mut String, picture: &Picture, grid: &Range<usize>) {
    let (y, width) = (66, grid.end - grid.start);
    let _ = writeln!(
        svg,
        "<rect class=\"absent\" x=\"{}\" y=\"{y}\" width=\"{width}\" height=\"{BAR}\" rx=\"4\"/>",
        grid.start
    );
    let disk = bytes_of(picture.total.blocks.into()).max(1);
    let place = |at: u64| {
        let wide = u64::try_from(width).unwrap_or_default();
        let pixels = u128::from(at) * u128::from(wide) / u128::from(disk);
        grid.start + usize::try_from(pixels).unwrap_or(width).min(width)
    };
    let mut free = grid.start;
    for (number, part) in picture.parts.iter().enumerate() {
        let range = &part.partition.range;
        // However small, it is seen.
        let start = place(range.start).max(free);
        let wide = place(range.end).saturating_sub(start + 1).max(3);
        free = start + wide + 1;
        let colour = colour_of(number);
        let _ = writeln!(
            svg,
            "<rect x=\"{start}\" y=\"{y}\" width=\"{wide}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        );
        let text = format!("p{}", part.partition.number);
        if wide > 16 + text.len() * 8 {
            let size = HumanBytes(range.end - range.start).to_string();
            let text = match wide > 128 {
                true => format!("{text}, {size}"),
                false => text,
            };
            let _ = writeln!(
                svg,
                "<text class=\"b\" x=\"{}\" y=\"{}\">{text}</text>",
                start + 8,
                y + 18
            );
        }
    }
}

/// All cells that look alike are one path.
fn cells(svg: &mut String, picture: &Picture) {
    let looks = [
        (Look::Absent, "absent"),
        (Look::Sparse, "sparse"),
        (Look::Dense, "dense"),
        (Look::PartlyCached, "partly"),
        (Look::Cached, "cached"),
        (Look::Changed, "changed"),
    ];
    for (look, class) in looks {
        let mut path = String::new();
        for (number, cell) in picture.cells.iter().enumerate() {
            if cell.look() == look {
                let (x, y) = at(picture, number);
                let _ = write!(path, "M{x} {y}h{CELL}v{CELL}h-{CELL}z");
            }
        }
        if !path.is_empty() {
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
}

/// Where a cell is drawn.
fn at(picture: &Picture, number: usize) -> (usize, usize) {
    let (row, column) = (number / picture.columns, number % picture.columns);
    (LEFT + column * ACROSS, TOP + row * DOWN)
}

/// A line in its partition's colour below each cell; a later partition's over an earlier one's.
fn underlines(svg: &mut String, picture: &Picture) {
    for (number, part) in picture.parts.iter().enumerate() {
        let range = &part.partition.range;
        let cell = |byte: u64| usize::try_from(byte / picture.cell_bytes()).unwrap_or(usize::MAX);
        let (first, last) = (cell(range.start), cell(range.end.saturating_sub(1)));
        let mut path = String::new();
        let mut from = first;
        while from <= last {
            let row_end = (from / picture.columns + 1) * picture.columns;
            let end = row_end.min(last + 1);
            let (x, y) = at(picture, from);
            let wide = (end - from) * ACROSS - (ACROSS - CELL);
            let _ = write!(path, "M{x} {}h{wide}", y + CELL + 2);
            from = end;
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" stroke=\"{}\" stroke-width=\"1.5\" stroke-opacity=\".55\" fill=\"none\"/>",
            colour_of(number)
        );
    }
}

/// Before each row where it begins, behind it the partitions that begin there.
fn labels(svg: &mut String, picture: &Picture, behind: usize) {
    let mut rows = picture.rows().enumerate().peekable();
    while let Some((row, (start, _))) = rows.next() {
        let y = TOP + row * DOWN + CELL;
        // More would be hard to read.
        if row % 4 == 0 {
            let _ = writeln!(
                svg,
                "<text class=\"o\" x=\"{}\" y=\"{y}\">{}</text>",
                LEFT - 10,
                exactly(start)
            );
        }
        let end = rows.peek().map_or(u64::MAX, |(_, (start, _))| *start);
        let begins = |(_, part): &(usize, &Part)| {
            let begin = part.partition.range.start;
            start <= begin && begin < end
        };
        let here: Vec<_> = picture.parts.iter().enumerate().filter(begins).collect();
        if here.is_empty() {
            continue;
        }
        let _ = write!(svg, "<text class=\"n\" x=\"{behind}\" y=\"{y}\">");
        for (number, part) in here.iter().take(4) {
            let _ = write!(
                svg,
                "<tspan dx=\"4\" fill=\"{}\">p{}</tspan>",
                colour_of(*number),
                part.partition.number
            );
        }
        svg.push_str(if here.len() > 4 {
            "…</text>\n"
        } else {
            "</text>\n"
        });
    }
}

/// What the colours mean, and how much there is of each.
fn explain(svg: &mut String, picture: &Picture, subject: &Subject, y: usize) {
    let Counts {
        blocks,
        present,
        cached,
        changed,
    } = picture.total;
    let mut entries = vec![
        (&["absent"][..], "absent", blocks - present),
        (&["sparse", "dense"], "present", present),
    ];
    if subject.may_be_cached {
        entries.push((&["partly", "cached"], "cached here", cached));
    }
    if subject.since.is_some() {
        entries.push((&["changed"], "changed", changed));
    }
    for (number, (classes, what, blocks)) in entries.into_iter().enumerate() {
        let mut x = LEFT + number * 256;
        for class in classes {
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" rx=\"1\"/>",
                y - 10
            );
            x += 14;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{y}\">{what} <tspan class=\"s\">{} in {blocks} blocks</tspan></text>",
            x + 4,
            HumanBytes(bytes_of(blocks.into()))
        );
    }
}

/// A partition in numbers.
fn describe(svg: &mut String, part: &Part, number: usize, subject: &Subject, y: usize) {
    let (partition, counts) = (&part.partition, &part.counts);
    let bytes = |blocks: u32| HumanBytes(bytes_of(blocks.into()));
    let _ = write!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{}\" width=\"11\" height=\"11\" rx=\"1\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\">p{}",
        y - 10,
        colour_of(number),
        LEFT + 18,
        partition.number
    );
    let _ = write!(
        svg,
        "<tspan class=\"s\" x=\"{}\">{} at {}, {} present",
        LEFT + 56,
        HumanBytes(partition.range.end - partition.range.start),
        exactly(partition.range.start),
        bytes(counts.present)
    );
    if subject.may_be_cached {
        let _ = write!(svg, ", {} cached", bytes(counts.cached));
    }
    if subject.since.is_some() {
        let _ = write!(svg, ", {} changed", bytes(counts.changed));
    }
    if !partition.name.is_empty() {
        let _ = write!(svg, ", {}", escape(xml_text(&partition.name)));
    }
    svg.push_str("</tspan></text>\n");
}

/// Text without what no XML may hold.
fn xml_text(text: &str) -> String {
    printable(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use quick_xml::events::Event;
    use quick_xml::reader::Reader;

    use super::super::picture::Mark;
    use super::*;
    use crate::snapshot::{SnapshotInfo, Status, VolumeSize};

    #[test]
    fn whatever_a_table_says_the_picture_is_well_formed() {
        let info = SnapshotInfo {
            id: "snap-0b".parse().unwrap(),
            parent: None,
            volume_size: VolumeSize::from_gib(8).unwrap(),
            status: Status::Completed,
            start_time: None,
            description: String::new(),
            tags: Default::default(),
            encryption: None,
        };
        let names = ["</svg><script>", "a & b \"c\"", "\u{0}\u{ffff}\u{202e}", ""];
        let part = |(number, name): (u32, &str)| {
            let start = u64::from(number) << 20;
            Partition {
                number,
                range: start..start + (1 << (20 + number)),
                kind: "0x83".into(),
                name: name.into(),
            }
        };
        let parts = (1..).zip(names).map(part).collect();
        let mut picture = canvas(info.volume_size.blocks(), parts);
        picture.mark(Mark::Present, 0..5000);
        picture.mark(Mark::Cached, 10..3000);
        picture.mark(Mark::Changed, 4000..4100);
        let since = Some("snap-0a".parse().unwrap());
        let subject = Subject {
            info,
            since,
            may_be_cached: true,
        };
        let svg = draw(&picture, &subject);
        let mut reader = Reader::from_str(&svg);
        let (mut depth, mut paths) = (0_i32, 0);
        loop {
            match reader.read_event().unwrap() {
                Event::Start(_) => depth += 1,
                Event::End(_) => depth -= 1,
                Event::Empty(tag) => paths += i32::from(tag.name().as_ref() == "path"),
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        // What is absent, present, cached and changed, and a line below each partition.
        assert!(paths >= 4 + 4, "{paths} paths");
        assert!(!svg.contains("<script"), "{svg}");
        let foreign = |c: char| c.is_control() && c != '\n' || c == '\u{ffff}';
        assert!(!svg.contains(foreign), "{svg}");
        // It fetches nothing.
        assert_eq!(svg.matches("http").count(), 1, "{svg}");
    }
}
