//! What there is, for people.

use std::fmt::Write as _;
use std::path::Path;

use super::super::list::printable;
use super::{Browsed, Found, Mount, State};

/// A paragraph for each thing.
pub(super) fn of(found: &Found) -> String {
    let mut text = String::new();
    for mount in found.mounts.iter().filter(|mount| mount.browsed.is_none()) {
        text.push_str(&of_mount(mount, found));
    }
    for browsed in &found.browsed {
        text.push_str(&of_browsed(browsed, found));
    }
    for left in &found.leftovers {
        let path = shown(&left.path);
        let _ = writeln!(
            text,
            "left over {path}: {}; `{}` clears it",
            left.what,
            printable(&left.command)
        );
    }
    text
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:10} {value}");
}

fn daemon(mount: &Mount) -> String {
    match (mount.daemon.pid, mount.daemon.state) {
        (Some(pid), State::Dead) => format!("process {pid}, which is dead"),
        (Some(pid), _) => format!("process {pid}"),
        (None, _) => "unknown".to_owned(),
    }
}

fn of_mount(mount: &Mount, found: &Found) -> String {
    let mut text = format!("mount {}\n", shown(&mount.mountpoint));
    if let Some(store) = &mount.store {
        let snapshots = match &mount.snapshots {
            Some(ids) => printable(&ids.join(", ")),
            None => "all of the store".to_owned(),
        };
        line(&mut text, "snapshots", &snapshots);
        line(&mut text, "store", &printable(store));
    }
    line(&mut text, "daemon", &daemon(mount));
    match &mount.overlay {
        Some(overlay) => line(&mut text, "overlay", &shown(overlay)),
        None if mount.read_only => line(&mut text, "access", "read-only"),
        None => {}
    }
    let over = found
        .loops
        .iter()
        .filter(|attached| attached.file.starts_with(&mount.mountpoint));
    for attached in over {
        let name = attached.file.file_name().unwrap_or_default();
        let mut value = format!(
            "{} over {}",
            shown(&attached.device),
            shown(Path::new(name))
        );
        for at in &attached.mounted {
            let _ = write!(value, ", mounted on {}", shown(at));
        }
        line(&mut text, "loop", &value);
    }
    text
}

fn of_browsed(browsed: &Browsed, found: &Found) -> String {
    let mut text = format!("browse {}\n", shown(&browsed.directory));
    line(&mut text, "snapshot", &browsed.snapshot);
    if browsed.under_way {
        line(&mut text, "state", "being set up or taken down");
    }
    if let (Some(file), Some(fs_type)) = (&browsed.file, &browsed.fs_type) {
        let name = file.file_name().unwrap_or_default();
        let access = match browsed
            .options
            .as_deref()
            .map(|options| options.split(',').next())
        {
            None => "not mounted",
            Some(Some("rw")) => "writable",
            Some(_) => "read-only",
        };
        let value = format!(
            "{} of {}, {access}",
            printable(fs_type),
            shown(Path::new(name))
        );
        line(&mut text, "files", &value);
    }
    if let Some(device) = &browsed.device {
        line(&mut text, "loop", &shown(device));
    }
    if let Some(overlay) = &browsed.overlay {
        let fate = if browsed.kept {
            ""
        } else {
            ", thrown away in the end"
        };
        line(&mut text, "overlay", &format!("{}{fate}", shown(overlay)));
    }
    let mount = found
        .mounts
        .iter()
        .find(|mount| mount.browsed.as_ref() == Some(&browsed.directory));
    if let Some(mount) = mount {
        if let Some(store) = &mount.store {
            line(&mut text, "store", &printable(store));
        }
        line(&mut text, "daemon", &daemon(mount));
    }
    text
}
