//! What a user may say about a new snapshot, whichever verb makes it.

use std::time::Duration;

use clap::Args;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::Tags;

#[derive(Args)]
pub(super) struct Wished {
    /// A description of the snapshot
    #[arg(long)]
    description: Option<String>,

    /// A tag of the snapshot; may be given several times
    #[arg(long, value_name = "Key=K,Value=V", value_parser = parse_tag)]
    tags: Vec<(String, String)>,

    /// Minutes after which an unfinished snapshot expires, 10 to 60 [default: 60]
    #[arg(long, value_name = "MINUTES")]
    timeout: Option<u64>,
}

impl Wished {
    pub(super) fn description(&self) -> Option<String> {
        self.description.clone()
    }

    pub(super) fn tags(&self) -> Result<Option<Tags>> {
        let tags: Tags = self.tags.iter().cloned().collect();
        if tags.len() != self.tags.len() {
            return Err(Error::new(ErrorKind::Invalid, "two tags have the same key"));
        }
        Ok((!tags.is_empty()).then_some(tags))
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
            .map(|minutes| Duration::from_secs(minutes.saturating_mul(60)))
    }
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let form = || "a tag is written Key=K,Value=V".to_owned();
    let (key, value) = text
        .strip_prefix("Key=")
        .and_then(|rest| rest.split_once(",Value="))
        .ok_or_else(form)?;
    Ok((key.to_owned(), value.to_owned()))
}
