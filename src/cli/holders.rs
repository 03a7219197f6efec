//! Who uses a mounted file system or a device, as fuser(1) tells it: from the kernel's tables alone, as a stat may hang.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::fuse::mountpoint::mounts;

/// At most so many are named.
const MOST: usize = 8;

/// What else than `dir` itself keeps the file system mounted there from `device` in use: mounts below it, the same mounted
/// elsewhere, and processes.
pub(super) fn of_mount(dir: &Path, device: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for mount in mounts()? {
        let is_other = mount.path != dir;
        if is_other && (mount.path.starts_with(dir) || mount.source == device) {
            found.push(format!("the mount {}", mount.path.display()));
        }
    }
    found.extend(processes(&|path| path.starts_with(dir)));
    Ok(shortened(found))
}

/// Processes that have `file` open, which may be a device.
pub(super) fn of_file(file: &Path) -> Vec<String> {
    shortened(processes(&|path| path == file))
}

fn shortened(mut found: Vec<String>) -> Vec<String> {
    if let Some(more) = found.len().checked_sub(MOST).filter(|more| *more > 0) {
        found.truncate(MOST);
        found.push(format!("{more} more"));
    }
    found
}

/// Processes other than this one that stand in, run, map or have open a path that `is_it`.
fn processes(is_it: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut numbers: Vec<_> = numbers.filter(|pid| *pid != std::process::id()).collect();
    numbers.sort_unstable();
    let using = numbers.into_iter().filter(|pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        uses(&process, is_it)
    });
    using
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim_end().escape_debug())
        })
        .collect()
}

fn uses(process: &Path, is_it: &dyn Fn(&Path) -> bool) -> bool {
    // A link is read, and never followed.
    let link = |name: PathBuf| fs::read_link(name).is_ok_and(|path| is_it(&path));
    let open = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    ["cwd", "root", "exe"]
        .iter()
        .any(|name| link(process.join(name)))
        || open.map(|entry| entry.path()).any(link)
        || maps(process, is_it)
}

fn maps(process: &Path, is_it: &dyn Fn(&Path) -> bool) -> bool {
    let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    paths.map(Path::new).any(is_it)
}
