//! A mount, as it tells of itself, and its daemon, which is asked for something.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Outcome;
use super::browse::mount_below;
use super::interrupt::unless_interrupted;
use crate::blocking::blocking;
use crate::control::{Client, Request, VERSION};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, mounted_at};

fn is_mount(path: &Path) -> Result<bool> {
    Ok(mounted_at(path)?.is_some_and(|entry| entry.fs_type == FS_TYPE))
}

pub(super) struct Mounted {
    pub(super) mountpoint: PathBuf,
    socket: PathBuf,
    /// The identity of its store.
    pub(super) store: String,
}

impl Mounted {
    /// The mount at `path`, which is canonical, or that below what is browsed there, if there is one.
    pub(super) fn at(path: &Path) -> Result<Option<Self>> {
        if is_mount(path)? {
            return Self::told(path).map(Some);
        }
        match mount_below(path)? {
            Some(below) if is_mount(&below)? => Self::told(&below).map(Some),
            _ => Ok(None),
        }
    }

    fn told(path: &Path) -> Result<Self> {
        let file = path.join(".ebsfs/mount.json");
        let told: Value = serde_json::from_slice(&durable::read(&file)?)
            .map_err(|e| Error::new(ErrorKind::Corrupt, format!("{}: {e}", file.display())))?;
        let text = |name: &str| told[name].as_str().map(str::to_owned);
        let (Some(socket), Some(store)) = (text("socket"), text("store")) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the daemon of {} has no control socket: mount again with this program, its log may say why there is none",
                    path.display()
                ),
            ));
        };
        Ok(Self {
            mountpoint: path.to_owned(),
            socket: socket.into(),
            store,
        })
    }

    /// Has the daemon do `command`, and tells `told` what happens meanwhile. A signal cancels it.
    pub(super) fn ask<E: DeserializeOwned, A: DeserializeOwned>(
        &self,
        runtime: &Runtime,
        command: &str,
        options: Value,
        told: impl Fn(E) + Send + 'static,
    ) -> Outcome<A> {
        let request = Request {
            version: VERSION,
            command: command.to_owned(),
            options,
        };
        let client = Client::ask(&self.socket, &request)?;
        let cancel = client.canceller()?;
        let asking = blocking("asking the daemon", move || {
            client.wait(|line| match serde_json::from_value(line) {
                Ok(event) => told(event),
                // A newer daemon may tell more.
                Err(e) => log::debug!("what the daemon tells is not understood: {e}"),
            })
        });
        let asked = runtime.block_on(unless_interrupted(asking, ""));
        cancel.cancel();
        serde_json::from_value(asked?).map_err(|e| {
            let e = Error::new(ErrorKind::Invalid, e.to_string());
            e.context("the daemon's answer makes no sense").into()
        })
    }
}
