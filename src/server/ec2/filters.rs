//! The filters of `DescribeSnapshots`: any of a filter's values, all of the filters.

use std::collections::BTreeMap;

use super::invalid;
use super::shapes::start_time;
use crate::server::answers::Answer;
use crate::server::parameters::Parameters;
use crate::server::wire;
use crate::snapshot::SnapshotInfo;

/// One filter: what it looks at, and the patterns that it admits.
pub(super) struct Filter {
    field: Field,
    patterns: Vec<String>,
}

enum Field {
    SnapshotId,
    Status,
    VolumeSize,
    Description,
    Encrypted,
    OwnerId,
    Progress,
    StartTime,
    StorageTier,
    VolumeId,
    TagKey,
    /// The value of the tag with this key.
    Tag(String),
}

impl Filter {
    /// `Filter.1.Name`, `Filter.1.Value.1` and so on.
    pub(super) fn all(form: &Parameters) -> Answer<Vec<Self>> {
        let mut filters: BTreeMap<u32, (Option<String>, Vec<String>)> = BTreeMap::new();
        for (name, value) in form.iter() {
            let Some(rest) = name.strip_prefix("Filter.") else {
                continue;
            };
            let parts: Vec<_> = rest.split('.').collect();
            let number = parts.first().and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| invalid(format!("what is {name}?")))?;
            let filter = filters.entry(number).or_default();
            match parts.as_slice() {
                [_, "Name"] => filter.0 = Some(value.to_owned()),
                [_, "Value", _] => filter.1.push(value.to_owned()),
                _ => return Err(invalid(format!("what is {name}?"))),
            }
        }
        filters
            .into_values()
            .map(|(name, patterns)| {
                let name = name.ok_or_else(|| invalid("a filter has no Name"))?;
                if patterns.is_empty() {
                    return Err(invalid(format!("the filter {name:?} has no Value")));
                }
                let field = Field::named(&name)
                    .ok_or_else(|| invalid(format!("the filter {name:?} is not one of these")))?;
                Ok(Self { field, patterns })
            })
            .collect()
    }

    pub(super) fn admits(&self, info: &SnapshotInfo) -> bool {
        let values = self.field.of(info);
        self.patterns
            .iter()
            .any(|pattern| values.iter().any(|value| matches(pattern, value)))
    }
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "snapshot-id" => Self::SnapshotId,
            "status" => Self::Status,
            "volume-size" => Self::VolumeSize,
            "description" => Self::Description,
            "encrypted" => Self::Encrypted,
            "owner-id" => Self::OwnerId,
            "progress" => Self::Progress,
            "start-time" => Self::StartTime,
            "storage-tier" => Self::StorageTier,
            "volume-id" => Self::VolumeId,
            "tag-key" => Self::TagKey,
            _ => Self::Tag(name.strip_prefix("tag:")?.to_owned()),
        })
    }

    fn of(&self, info: &SnapshotInfo) -> Vec<String> {
        use crate::snapshot::Status;
        match self {
            Self::SnapshotId => vec![info.id.to_string()],
            Self::Status => vec![info.status.to_string()],
            Self::VolumeSize => vec![info.volume_size.gib().to_string()],
            Self::Description => vec![info.description.clone()],
            Self::Encrypted => vec![info.encryption.is_some().to_string()],
            Self::OwnerId => vec![wire::OWNER.to_owned()],
            Self::Progress => vec![match info.status {
                Status::Completed => "100%".to_owned(),
                Status::Pending | Status::Error => "0%".to_owned(),
            }],
            Self::StartTime => start_time(info).into_iter().collect(),
            Self::StorageTier => vec!["standard".to_owned()],
            Self::VolumeId => vec!["vol-ffffffff".to_owned()],
            Self::TagKey => info.tags.keys().cloned().collect(),
            Self::Tag(key) => info.tags.get(key).into_iter().cloned().collect(),
        }
    }
}

/// Whether `text` is as `pattern` says: `*` is anything, `?` one character, and `\` makes the next one itself.
fn matches(pattern: &str, text: &str) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Part {
        Any,
        One,
        Is(char),
    }
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Is(chars.next().unwrap_or('\\')),
            other => Part::Is(other),
        });
    }
    // Which prefixes of the pattern the text so far can be: no pattern takes long.
    let mut reached = vec![false; parts.len() + 1];
    let close = |reached: &mut Vec<bool>| {
        for (at, part) in parts.iter().enumerate() {
            if *part == Part::Any && reached.get(at) == Some(&true) {
                reached.splice(at + 1..at + 2, [true]);
            }
        }
    };
    reached.splice(0..1, [true]);
    close(&mut reached);
    for c in text.chars() {
        let mut next = vec![false; parts.len() + 1];
        for (at, part) in parts.iter().enumerate() {
            if reached.get(at) != Some(&true) {
                continue;
            }
            match part {
                Part::Any => drop(next.splice(at..at + 1, [true])),
                Part::One => drop(next.splice(at + 1..at + 2, [true])),
                Part::Is(wanted) if *wanted == c => drop(next.splice(at + 1..at + 2, [true])),
                Part::Is(_) => {}
            }
        }
        reached = next;
        close(&mut reached);
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_admit_what_they_should() {
        for (pattern, text, wanted) in [
            ("daily", "daily", true),
            ("daily", "Daily", false),
            ("da*", "daily", true),
            ("*ly", "daily", true),
            ("*a*l*", "daily", true),
            ("d?ily", "daily", true),
            ("d?ily", "dily", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("?", "", false),
            ("**", "abc", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"a\?b", "a?b", true),
            ("ü?", "üß", true),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern:?} {text:?}");
        }
        let long = "*a".repeat(100);
        assert!(!matches(&long, &"a".repeat(99)));
    }
}
