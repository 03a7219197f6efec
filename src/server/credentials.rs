//! Key pairs that may sign requests: those of an AWS credentials file, or one made for this run.
//!
//! Nothing here can be printed by accident: secrets have no `Debug`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::random_hex;

/// One key pair.
#[derive(Clone)]
pub struct Key {
    /// The part that travels.
    pub id: String,
    /// The part that does not.
    pub secret: String,
    /// What must travel along with temporary credentials.
    pub session_token: Option<String>,
}

/// Key pairs by id.
#[derive(Clone, Default)]
pub struct Keys(HashMap<String, Key>);

impl Key {
    /// A new random one.
    pub fn random() -> Result<Self> {
        Ok(Self {
            id: format!("EBSFS{}", random_hex::<8>()?.to_uppercase()),
            secret: random_hex::<20>()?,
            session_token: None,
        })
    }
}

impl Keys {
    /// The keys of every profile in an AWS credentials file; `Invalid` if there is none, or only half of one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(e, "read", path))?;
        Self::parse(&text).map_err(|e| e.context(format!("cannot use {}", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut keys = Self::default();
        let mut profile = Profile::default();
        for line in text.lines() {
            if let Some(name) = line.trim().strip_prefix('[') {
                profile.finish(&mut keys)?;
                profile = Profile::named(name.trim_end_matches(']').trim());
                continue;
            }
            // A line that is indented belongs to a nested setting; none of ours is nested.
            if line.starts_with([' ', '\t', '#', ';']) {
                continue;
            }
            if let Some((name, value)) = line.split_once('=') {
                profile.set(name.trim(), value.trim());
            }
        }
        profile.finish(&mut keys)?;
        if keys.0.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "there is no key in it: it needs lines aws_access_key_id = ID and aws_secret_access_key = SECRET below [default]",
            ));
        }
        Ok(keys)
    }

    /// The key of that id.
    pub(super) fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)
    }
}

impl From<Key> for Keys {
    fn from(key: Key) -> Self {
        Self(HashMap::from([(key.id.clone(), key)]))
    }
}

/// A section of the file as far as it was read.
#[derive(Default)]
struct Profile {
    name: String,
    id: Option<String>,
    secret: Option<String>,
    session_token: Option<String>,
}

impl Profile {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        let value = (!value.is_empty()).then(|| value.to_owned());
        match name.to_ascii_lowercase().as_str() {
            "aws_access_key_id" => self.id = value,
            "aws_secret_access_key" => self.secret = value,
            "aws_session_token" => self.session_token = value,
            _ => {}
        }
    }

    fn finish(&mut self, keys: &mut Keys) -> Result<()> {
        match (self.id.take(), self.secret.take()) {
            (Some(id), Some(secret)) => {
                let key = Key {
                    id: id.clone(),
                    secret,
                    session_token: self.session_token.take(),
                };
                keys.0.insert(id, key);
                Ok(())
            }
            // A profile may hold something else, a role for example.
            (None, None) => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "profile {:?} has only half of a key pair: it needs both aws_access_key_id and aws_secret_access_key",
                    self.name
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_of_a_credentials_file_gives_its_key() {
        let text = "# mine\n[default]\naws_access_key_id=AKONE\naws_secret_access_key = s/e+c=ret\n\
            [other]\r\naws_access_key_id = AKTWO\r\naws_secret_access_key = two\r\naws_session_token = token==\r\n\
            [role]\nrole_arn = arn:aws:iam::1:role/r\ns3 =\n  aws_access_key_id = nested\n";
        let keys = Keys::parse(text).unwrap();
        assert_eq!(keys.0.len(), 2);
        let one = keys.get("AKONE").unwrap();
        assert_eq!(
            (one.secret.as_str(), &one.session_token),
            ("s/e+c=ret", &None)
        );
        let two = keys.get("AKTWO").unwrap();
        assert_eq!(two.session_token.as_deref(), Some("token=="));
        assert!(keys.get("nested").is_none());
    }

    #[test]
    fn half_a_key_pair_and_no_key_at_all_are_refused() {
        for bad in [
            "",
            "[default]\n",
            "[a]\naws_access_key_id = x\n",
            "[a]\naws_secret_access_key = x\n[b]\n",
            "[a]\naws_access_key_id = x\naws_secret_access_key =\n",
        ] {
            let error = Keys::parse(bad).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }
}
