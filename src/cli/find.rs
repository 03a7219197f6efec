//! `ebsfs find`: the files below a directory that are so and so.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::files::{Failures, Out, as_json, shown};
use super::ls::absolute;
use super::place::{self, Place};
use super::reading::Reading;
use super::stack::{Spot, Trees};
use super::{Common, Outcome, parse_bytes};
use crate::filesystem::{Found, Kind, Last, Metadata, Walk};

#[derive(Args)]
pub(super) struct Find {
    /// Where to begin: SNAPSHOT:/path, or SNAPSHOT.p2:/path
    #[arg(required = true, value_name = "PLACE", value_parser = place::parser())]
    places: Vec<Place>,

    /// Those whose name matches: * ? [a-z] {a,b}, and \ before one of these for itself
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    name: Option<String>,

    /// Those of that kind
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<Type>,

    /// Those changed later: 2026-01-01, or 2026-01-01T12:00:00Z; a day begins at midnight UTC
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    newer: Option<Timestamp>,

    /// Files of more (+1M), less (-1M) or just (1M) so many bytes
    #[arg(long, value_name = "BYTES", value_parser = parse_size, allow_hyphen_values = true)]
    size: Option<Size>,

    /// End each path with a NUL, as `xargs -0` reads them
    #[arg(long, conflicts_with = "json")]
    print0: bool,

    /// For programs: with all that is known
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

/// Kinds by the letters that find(1) has for them.
#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// Files
    F,
    /// Directories
    D,
    /// Symbolic links
    L,
    /// Character devices
    C,
    /// Block devices
    B,
    /// Named pipes
    P,
    /// Sockets
    S,
}

/// How many bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Size {
    More(u64),
    Less(u64),
    Just(u64),
}

fn parse_glob(text: &str) -> Result<String, String> {
    // Elsewhere it would mean all others.
    let glob = match text.strip_prefix('!') {
        Some(_) => format!("\\{text}"),
        None => text.to_owned(),
    };
    fast_glob::validate(&glob).map_err(|e| e.to_string())?;
    Ok(glob)
}

fn parse_date(text: &str) -> Result<Timestamp, String> {
    let midnight = || {
        let date: Date = text.parse().ok()?;
        date.to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    };
    // A date first: what has more parts is none.
    let date = if text.len() == 10 {
        midnight()
    } else {
        text.parse().ok()
    };
    date.ok_or_else(|| "write for example 2026-01-01, or 2026-01-01T12:00:00Z".to_owned())
}

fn parse_size(text: &str) -> Result<Size, String> {
    let bytes = |text| parse_bytes(text).map(|bytes| bytes.try_into().unwrap_or(u64::MAX));
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => bytes(rest).map(Size::More),
        (_, Some(rest)) => bytes(rest).map(Size::Less),
        _ => bytes(text).map(Size::Just),
    }
}

impl Type {
    fn is(self, kind: Kind) -> bool {
        match self {
            Self::F => kind == Kind::File,
            Self::D => kind == Kind::Directory,
            Self::L => kind == Kind::Symlink,
            Self::C => matches!(kind, Kind::CharDevice { .. }),
            Self::B => matches!(kind, Kind::BlockDevice { .. }),
            Self::P => kind == Kind::Fifo,
            Self::S => kind == Kind::Socket,
        }
    }
}

impl Size {
    fn is(self, size: u64) -> bool {
        match self {
            Self::More(least) => size > least,
            Self::Less(most) => size < most,
            Self::Just(just) => size == just,
        }
    }
}

impl Find {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let trees = Trees::open(common, &self.reading)?;
        let mut out = Out::new();
        let mut failures = Failures::default();
        for place in &self.places {
            match trees.find(place, Last::Keep) {
                Ok(spot) => self.below(place, &spot, &mut out, &mut failures)?,
                Err(e) if self.places.len() == 1 => return Err(e.into()),
                Err(e) => failures.say(&e),
            }
        }
        if self.json {
            out.end_array()?;
        }
        out.flush()?;
        failures.end("file")
    }

    fn below(&self, place: &Place, spot: &Spot, out: &mut Out, failures: &mut Failures) -> Outcome {
        let failed = |path: &[u8]| format!("{}:{}", spot.volume.name, shown(path));
        for Found { path, file, .. } in Walk::new(&*spot.tree, &absolute(&place.path), spot.node) {
            let (node, metadata) = match file {
                Ok(file) => file,
                Err(e) => {
                    failures.say(&e.context(failed(&path)));
                    continue;
                }
            };
            if !self.wants(&path, &metadata) {
                continue;
            }
            if self.json {
                let target = match metadata.kind {
                    Kind::Symlink => match spot.tree.link_target(node) {
                        Ok(target) => Some(target),
                        Err(e) => {
                            failures.say(&e.context(failed(&path)));
                            None
                        }
                    },
                    _ => None,
                };
                out.put_object(&as_json(&path, node, &metadata, target.as_deref()))?;
            } else if self.print0 {
                out.put(&path)?;
                out.put(b"\0")?;
            } else {
                out.put_name(&path)?;
                out.put(b"\n")?;
            }
        }
        Ok(())
    }

    fn wants(&self, path: &[u8], metadata: &Metadata) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_newer = |time: Timestamp| {
            Timestamp::try_from(metadata.modified).is_ok_and(|modified| modified > time)
        };
        self.kind.is_none_or(|kind| kind.is(metadata.kind))
            && self
                .name
                .as_ref()
                .is_none_or(|glob| fast_glob::glob_match(glob, name))
            && self.newer.is_none_or(is_newer)
            && self
                .size
                .is_none_or(|size| metadata.kind == Kind::File && size.is(metadata.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_more_less_or_just_so() {
        assert_eq!(parse_size("+1M"), Ok(Size::More(1 << 20)));
        assert_eq!(parse_size("-1k"), Ok(Size::Less(1024)));
        assert_eq!(parse_size("7"), Ok(Size::Just(7)));
        assert!(parse_size("+").is_err() && parse_size("++1").is_err());
        assert!(Size::More(5).is(6) && !Size::More(5).is(5));
        assert!(Size::Less(5).is(4) && !Size::Less(5).is(5));
    }

    #[test]
    fn a_date_is_its_midnight_and_a_time_is_itself() {
        let shown = |text| parse_date(text).map(|time| time.to_string());
        assert_eq!(shown("2026-01-02").unwrap(), "2026-01-02T00:00:00Z");
        assert_eq!(
            shown("2026-01-02T03:04:05Z").unwrap(),
            "2026-01-02T03:04:05Z"
        );
        for bad in ["", "yesterday", "2026-13-01", "2026-1-1", "20260101T"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_glob_speaks_of_whole_names_byte_by_byte() {
        let matches = |glob, name: &[u8]| fast_glob::glob_match(parse_glob(glob).unwrap(), name);
        assert!(
            matches("*.pem", b"key.pem")
                && matches("*.pem", b".pem")
                && !matches("*.pem", b"key.pem~")
        );
        assert!(matches("*", b"\xff\n") && matches("[ab]?", b"bx") && matches("{a,b}c", b"bc"));
        assert!(
            matches("!x", b"!x") && !matches("!x", b"y"),
            "no glob means all others"
        );
        assert!(parse_glob("[a").is_err() && parse_glob("{a").is_err());
    }
}
