//! The filters of `DescribeSnapshots`: any of a filter's values, all of the filters.

use std::collections::BTreeMap;

use super::invalid;
use super::shapes::{NO_VOLUME, STORAGE_TIER, progress, start_time};
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
        match self {
            Self::SnapshotId => vec![info.id.to_string()],
            Self::Status => vec![info.status.to_string()],
            Self::VolumeSize => vec![info.volume_size.gib().to_string()],
            Self::Description => vec![info.description.clone()],
            Self::Encrypted => vec![info.encryption.is_some().to_string()],
            Self::OwnerId => vec![wire::OWNER.to_owned()],
            Self::Progress => vec![progress(info).to_owned()],
            Self::StartTime => start_time(info).into_iter().collect(),
            Self::StorageTier => vec![STORAGE_TIER.to_owned()],
            Self::VolumeId => vec![NO_VOLUME.to_owned()],
            Self::TagKey => info.tags.keys().cloned().collect(),
            Self::Tag(key) => info.tags.get(key).into_iter().cloned().collect(),
        }
    }
}

/// What one character of a pattern asks for: a character, or any.
type Wanted = Option<char>;

/// Whether `text` is as `pattern` says: `*` is anything, `?` one character, and `\` makes the next one itself.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    match pieces(pattern).as_slice() {
        [] => text.is_empty(),
        [whole] => whole.len() == text.len() && fits(whole, &text),
        [first, between @ .., last] => {
            let Some((start, mut rest)) = text.split_at_checked(first.len()) else {
                return false;
            };
            // The leftmost place of each is as good as any other.
            for piece in between.iter().filter(|piece| !piece.is_empty()) {
                let place = rest.windows(piece.len()).position(|at| fits(piece, at));
                let Some(after) = place.and_then(|place| rest.get(place + piece.len()..)) else {
                    return false;
                };
                rest = after;
            }
            let end = rest.len().checked_sub(last.len());
            let end = end.and_then(|end| rest.get(end..));
            fits(first, start) && end.is_some_and(|end| fits(last, end))
        }
    }
}

/// What stands between the stars of a pattern.
fn pieces(pattern: &str) -> Vec<Vec<Wanted>> {
    let mut pieces = vec![Vec::new()];
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let wanted = match c {
            '*' => {
                pieces.push(Vec::new());
                continue;
            }
            '?' => None,
            '\\' => chars.next().or(Some(c)),
            other => Some(other),
        };
        pieces
            .last_mut()
            .into_iter()
            .for_each(|piece| piece.push(wanted));
    }
    pieces
}

/// Whether texts of one length are the same, where something is wanted.
fn fits(piece: &[Wanted], text: &[char]) -> bool {
    let mut both = piece.iter().zip(text);
    both.all(|(wanted, c)| wanted.is_none_or(|wanted| wanted == *c))
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
