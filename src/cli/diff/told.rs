//! What is printed of files that differ: a line each, or an object each, and the totals.

use serde_json::{Value, json};

use super::super::files::{Out, as_json, set_bytes, time_text};
use super::super::{Outcome, tell};
use super::Pair;
use crate::compare::{File, Finding, What};
use crate::error::Error;

/// Prints as it goes.
pub(super) struct Teller {
    out: Out,
    as_json: bool,
    begun: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    /// In what they hold or are.
    changed: u64,
    /// In all else.
    attributes: u64,
    failed: u64,
    /// Not of files.
    other: bool,
}

/// The columns of a change, and how programs are told of each.
fn columns(what: &What) -> [(char, &'static str, bool); 7] {
    [
        ('c', "contents", what.contents),
        ('p', "mode", what.mode),
        ('u', "owner", what.owner),
        ('g', "group", what.group),
        ('x', "xattrs", what.xattrs),
        ('t', "times", what.times),
        ('l', "links", what.links),
    ]
}

impl Teller {
    pub(super) fn begin(pair: &Pair, as_json: bool) -> Outcome<Self> {
        let mut out = Out::new();
        if as_json {
            let (from, to) = (json!(pair.from.id), json!(pair.to.id));
            let head = format!("{{\n\"from\": {from},\n\"to\": {to},\n\"files\": ");
            out.put(head.as_bytes())?;
        }
        Ok(Self {
            out,
            as_json,
            begun: false,
            counts: Counts::default(),
        })
    }

    /// Something that is no file differs.
    pub(super) fn differs(&mut self) {
        self.counts.other = true;
    }

    pub(super) fn tell(&mut self, prefix: &str, path: &[u8], finding: &Finding) -> Outcome {
        let (change, column, old, new, what) = match finding {
            Finding::Added(new) => ("added", '+', None, Some(new), What::default()),
            Finding::Removed(old) => ("removed", '-', Some(old), None, What::default()),
            Finding::Retyped(old, new) => ("retyped", 'r', Some(old), Some(new), What::default()),
            Finding::Changed(old, new, what) => ("changed", '.', Some(old), Some(new), *what),
            Finding::Failed(_) => return Ok(()),
        };
        let counts = &mut self.counts;
        let counter = match finding {
            Finding::Added(_) => &mut counts.added,
            Finding::Removed(_) => &mut counts.removed,
            Finding::Changed(_, _, what) if !what.contents => &mut counts.attributes,
            _ => &mut counts.changed,
        };
        *counter += 1;
        if self.as_json {
            let mut value = named(prefix, path, change);
            if change == "changed" {
                let names = columns(&what).into_iter().filter(|(.., is)| *is);
                value["what"] = names.map(|(_, name, _)| json!(name)).collect();
            }
            for (side, file) in [("old", old), ("new", new)] {
                if let Some(file) = file {
                    value[side] = described(file);
                }
            }
            return self.out.put_object(&value);
        }
        let mut letters = String::new();
        for (letter, _, is) in columns(&what) {
            letters.push(if is { letter } else { '.' });
        }
        if column != '.' {
            letters.replace_range(..1, column.encode_utf8(&mut [0; 4]));
        }
        let size = |file: Option<&File>| {
            file.map_or_else(|| "-".to_owned(), |file| file.metadata.size.to_string())
        };
        let time = new.or(old).map(|file| time_text(file.metadata.modified));
        if !self.begun {
            self.begun = true;
            let head = format!(
                "{:7} {:>12} {:>12}  {:20}  PATH\n",
                "CHANGE", "OLD SIZE", "NEW SIZE", "MODIFIED"
            );
            self.out.put(head.as_bytes())?;
        }
        let line = format!(
            "{letters} {:>12} {:>12}  {:20}  {prefix}",
            size(old),
            size(new),
            time.unwrap_or_default()
        );
        self.out.put(line.as_bytes())?;
        self.out.put_name(path)?;
        self.out.put(b"\n")
    }

    /// A file that cannot be read, which was said.
    pub(super) fn failed(&mut self, prefix: &str, path: &[u8], why: &Error) -> Outcome {
        self.counts.failed += 1;
        if self.as_json {
            let mut value = named(prefix, path, "unknown");
            value["error"] = json!(format!("{why:#}"));
            return self.out.put_object(&value);
        }
        Ok(())
    }

    /// Prints the totals, and tells whether anything differs.
    pub(super) fn end(&mut self) -> Outcome<bool> {
        let Counts {
            added,
            removed,
            changed,
            attributes,
            failed,
            other,
        } = self.counts;
        if self.as_json {
            self.out.end_array()?;
            let totals = json!({
                "added": added, "removed": removed, "changed": changed,
                "attributes": attributes, "unknown": failed,
            });
            self.out
                .put(format!(",\n\"totals\": {totals}\n}}\n").as_bytes())?;
        }
        self.out.flush()?;
        let differs = other || added + removed + changed + attributes > 0;
        if !self.as_json {
            tell(&format!(
                "files: {added} added, {removed} removed, {changed} changed, {attributes} only in mode, owner, attributes, times or names"
            ));
        }
        Ok(differs)
    }
}

fn named(prefix: &str, path: &[u8], change: &str) -> Value {
    let mut value = json!({});
    set_bytes(&mut value, "path", path);
    if let Some(number) = prefix.strip_prefix('p') {
        let number = number.trim_end_matches(':').parse::<u32>().ok();
        value["partition"] = json!(number);
    }
    value["change"] = json!(change);
    value
}

/// A file without its path.
fn described(file: &File) -> Value {
    let mut value = as_json(b"", file.node, &file.metadata, None);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("path");
    }
    value
}
