//! How far the kernel reads ahead by itself.
//!
//! It begins with 128 KiB whatever it is told when a session starts, and cuts its requests to that. Only root can raise
//! it, and only for a file system that is mounted already.

use std::fs;
use std::io::ErrorKind;

use log::{debug, info};

use super::mountpoint::MountEntry;

/// Two blocks: requests are whole aligned blocks then, and while one is copied another is on its way. More brings nothing, as
/// blocks are read ahead below, and costs those who map a file: each fault reads so much.
const KIB: &str = "1024";

/// Lets the kernel read whole blocks ahead on `mount`, if this process may. It is not worth failing for.
pub(super) fn raise(mount: &MountEntry) {
    let shown = mount.path.display();
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mount.device);
    match fs::write(&setting, KIB) {
        Ok(()) => info!("{shown}: the kernel reads {KIB} KiB ahead"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => debug!(
            "{shown}: the kernel reads little ahead; as root, `echo {KIB} > {setting}` helps"
        ),
        Err(e) => debug!("{shown}: the kernel reads little ahead: cannot write {setting}: {e}"),
    }
}
