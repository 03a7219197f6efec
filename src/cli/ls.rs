//! `ebsfs ls`: what is in a directory.

use std::collections::HashSet;

use clap::Args;

use super::files::{Failures, Out, as_json, mode_text, shown, time_text};
use super::place::{self, Place};
use super::reading::Reading;
use super::stack::{Spot, Trees};
use super::{Common, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{Kind, Last, Metadata, Node};

#[derive(Args)]
pub(super) struct Ls {
    /// Files and directories: SNAPSHOT:/path, or SNAPSHOT.p2:/path
    #[arg(required = true, value_name = "PLACE", value_parser = place::parser())]
    places: Vec<Place>,

    /// Show mode, links, owner and group by number, size, time of change (UTC), and where links point
    #[arg(short)]
    long: bool,

    /// Go into directories
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Show names that begin with a dot, too
    #[arg(short, long)]
    all: bool,

    /// Show directories and not what is in them
    #[arg(short, long)]
    directory: bool,

    /// For programs: always with all that is known
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

/// One line, as far as it is known.
struct Line {
    /// As it is shown: a name in a directory, or a path.
    name: Vec<u8>,
    path: Vec<u8>,
    node: Node,
    metadata: Option<Metadata>,
    target: Option<Vec<u8>>,
}

/// What is printed, and what went wrong on the way.
struct Lister<'a> {
    verb: &'a Ls,
    out: Out,
    failures: Failures,
    /// Whether something was printed before.
    begun: bool,
    /// Whether each directory gets a title.
    titles: bool,
}

impl Ls {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let trees = Trees::open(common, &self.reading)?;
        let mut spots = Vec::new();
        let mut failures = Failures::default();
        for place in &self.places {
            // Like ls: a link to a directory is followed unless it is itself looked at.
            let last = if self.long || self.directory {
                Last::Keep
            } else {
                Last::Follow
            };
            match trees.find(place, last).and_then(|spot| {
                let metadata = spot
                    .tree
                    .metadata(spot.node)
                    .map_err(|e| e.context(place.to_string()))?;
                Ok((place, spot, metadata))
            }) {
                Ok(found) => spots.push(found),
                Err(e) if self.places.len() == 1 => return Err(e.into()),
                Err(e) => failures.say(&e),
            }
        }
        let mut lister = Lister {
            titles: self.recursive || self.places.len() > 1,
            verb: &self,
            out: Out::new(),
            failures,
            begun: false,
        };
        let is_listed = |metadata: &Metadata| metadata.kind == Kind::Directory && !self.directory;
        let mut alone = Vec::new();
        for (place, spot, metadata) in spots.iter().filter(|(.., metadata)| !is_listed(metadata)) {
            let path = absolute(&place.path);
            let line = lister.line(spot, path.clone(), path, spot.node, Ok(metadata.clone()));
            alone.extend(line);
        }
        lister.print(&alone)?;
        for (place, spot, _) in spots.iter().filter(|(.., metadata)| is_listed(metadata)) {
            lister.directory(place, spot)?;
        }
        if self.json {
            lister.out.end_array()?;
        }
        lister.out.flush()?;
        lister.failures.end("file")
    }
}

/// A path with a slash before it, and none at its end.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    let mut path = path.to_vec();
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    path
}

impl Lister<'_> {
    /// What is to be shown of a file; nothing if it cannot be, which is said.
    fn line(
        &mut self,
        spot: &Spot,
        name: Vec<u8>,
        path: Vec<u8>,
        node: Node,
        metadata: Result<Metadata>,
    ) -> Option<Line> {
        let failed = |e: Error| e.context(format!("{}:{}", spot.volume.name, shown(&path)));
        let metadata = match metadata {
            Ok(metadata) => Some(metadata),
            Err(e) => {
                self.failures.say(&failed(e));
                None
            }
        };
        let is_link = metadata
            .as_ref()
            .is_some_and(|metadata| metadata.kind == Kind::Symlink);
        let mut target = None;
        if is_link && (self.verb.long || self.verb.json) {
            match spot.tree.link_target(node) {
                Ok(found) => target = Some(found),
                Err(e) => self.failures.say(&failed(e)),
            }
        }
        Some(Line {
            name,
            path,
            node,
            metadata,
            target,
        })
    }

    /// What is in a directory, and in those below it if that is wanted: one after the other, as `ls -R` has them.
    fn directory(&mut self, place: &Place, spot: &Spot) -> Outcome {
        let mut to_go = vec![(absolute(&place.path), spot.node)];
        let mut seen = HashSet::new();
        while let Some((path, node)) = to_go.pop() {
            let failed = |e: Error| e.context(format!("{}:{}", spot.volume.name, shown(&path)));
            if !seen.insert(node) {
                let what =
                    "this directory has a second name, and what is in it was shown under the first";
                let e = Error::new(ErrorKind::Corrupt, what);
                self.failures.say(&failed(e));
                continue;
            }
            let mut entries = match spot.tree.entries(node) {
                Ok(entries) => entries,
                Err(e) => {
                    self.failures.say(&failed(e));
                    continue;
                }
            };
            entries.retain(|entry| self.verb.all || !entry.name.starts_with(b"."));
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let needs_metadata = self.verb.long || self.verb.json || self.verb.recursive;
            let mut lines = Vec::with_capacity(entries.len());
            let mut below = Vec::new();
            for entry in entries {
                let slash: &[u8] = if path == b"/" { b"" } else { b"/" };
                let full = [&path, slash, &entry.name].concat();
                if !needs_metadata {
                    lines.push(Line {
                        name: entry.name,
                        path: full,
                        node: entry.node,
                        metadata: None,
                        target: None,
                    });
                    continue;
                }
                let metadata = spot.tree.metadata(entry.node);
                if self.verb.recursive
                    && matches!(&metadata, Ok(metadata) if metadata.kind == Kind::Directory)
                {
                    below.push((full.clone(), entry.node));
                }
                lines.extend(self.line(spot, entry.name, full, entry.node, metadata));
            }
            if self.titles && !self.verb.json {
                if self.begun {
                    self.out.put(b"\n")?;
                }
                self.out.put_name(&path)?;
                self.out.put(b":\n")?;
                self.begun = true;
            }
            self.print(&lines)?;
            to_go.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn print(&mut self, lines: &[Line]) -> Outcome {
        self.begun |= !lines.is_empty();
        if self.verb.json {
            for line in lines {
                if let Some(metadata) = &line.metadata {
                    self.out.put_object(&as_json(
                        &line.path,
                        line.node,
                        metadata,
                        line.target.as_deref(),
                    ))?;
                }
            }
            return Ok(());
        }
        let columns: Vec<_> = lines.iter().map(|line| self.columns(line)).collect();
        let mut widths = [0; COLUMNS];
        for row in &columns {
            for (width, column) in widths.iter_mut().zip(row) {
                *width = column.len().max(*width);
            }
        }
        for (line, row) in lines.iter().zip(&columns) {
            if self.verb.long {
                let [mode, links, uid, gid, size, time] = row;
                let [_, l, u, g, s, t] = widths;
                let text =
                    format!("{mode:10} {links:>l$} {uid:>u$} {gid:>g$} {size:>s$} {time:>t$} ");
                self.out.put(text.as_bytes())?;
            }
            self.out.put_name(&line.name)?;
            if let Some(target) = &line.target {
                self.out.put(b" -> ")?;
                self.out.put_name(target)?;
            }
            self.out.put(b"\n")?;
        }
        Ok(())
    }

    fn columns(&self, line: &Line) -> [String; COLUMNS] {
        let Some(metadata) = line.metadata.as_ref().filter(|_| self.verb.long) else {
            return ["?", "?", "?", "?", "?", "?"].map(str::to_owned);
        };
        let size = match metadata.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                format!("{major}, {minor}")
            }
            _ => metadata.size.to_string(),
        };
        [
            mode_text(metadata),
            metadata.links.to_string(),
            metadata.uid.to_string(),
            metadata.gid.to_string(),
            size,
            time_text(metadata.modified),
        ]
    }
}

const COLUMNS: usize = 6;
