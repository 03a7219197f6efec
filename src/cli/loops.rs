//! Loop devices: what the kernel's tables say of them, and `losetup` of util-linux, which attaches and detaches.
//!
//! Nothing here opens a device or a file, which may hang with the daemon below it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A loop device, attached once: the next time it has another sequence number, which counts anew when the machine starts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    /// None where the kernel is older than 5.15.
    sequence: Option<u64>,
    boot: Option<String>,
}

/// A loop device, and the file below it by the name that it has now: after a lazy unmount that is no path any more.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub(super) device: Device,
    pub(super) file: PathBuf,
}

/// All that are attached.
pub(super) fn all() -> Vec<Loop> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(&entry.path())).collect()
}

/// The loop device that the kernel shows at `at`, if it is one and attached.
fn look(at: &Path) -> Option<Loop> {
    let read = |name: &str| fs::read_to_string(at.join(name)).ok();
    let file = read("loop/backing_file")?;
    let device = Device {
        path: Path::new("/dev").join(at.file_name()?),
        sequence: read("diskseq").and_then(|text| text.trim_end().parse().ok()),
        boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .map(|id| id.trim_end().to_owned()),
    };
    Some(Loop {
        device,
        file: file.strip_suffix('\n').unwrap_or(&file).into(),
    })
}

/// The loop device of that path, if it is attached.
pub(super) fn at(path: &Path) -> Option<Loop> {
    look(&Path::new("/sys/block").join(path.file_name()?))
}

impl Device {
    /// Whether both are the same device, attached the same time.
    fn is(&self, other: &Self) -> bool {
        self == other && self.sequence.is_some() && self.boot.is_some()
    }

    fn is_attached(&self) -> bool {
        at(&self.path).is_some_and(|now| now.device == *self)
    }
}

/// Those over a file below `dir`, and `known`, whatever its file is called by now.
pub(super) fn over(dir: &Path, known: Option<&Device>) -> Vec<Loop> {
    let mut found = all();
    found.retain(|found| {
        found.file.starts_with(dir) || known.is_some_and(|known| known.is(&found.device))
    });
    found
}

/// `program` of util-linux, quiet and in English, in no group that a terminal interrupts. What it inherits as its stdin,
/// it holds as long as it lives.
pub(super) fn tool(program: &str, stdin: File) -> Command {
    let mut command = Command::new(program);
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    command
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Starts a [`tool`].
pub(super) fn start(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|e| {
        let hint = format!("cannot run {program}: is the package mount (util-linux) installed?");
        Error::from(e).context(hint)
    })
}

/// What a [`tool`] printed, once it has ended well.
pub(super) fn finish(child: Child, deed: &str) -> Result<String> {
    let output = child
        .wait_with_output()
        .map_err(|e| Error::from(e).context(format!("cannot {deed}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', " ");
    let what = match &*said {
        "" => output.status.to_string(),
        said => said.to_owned(),
    };
    Err(Error::new(kind(&what), what).context(format!("cannot {deed}")))
}

/// What a tool's words mean, which alone say why it failed.
fn kind(said: &str) -> ErrorKind {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["ermission denied", "not permitted"]) {
        ErrorKind::Denied
    } else if says(&["busy"]) {
        ErrorKind::Conflict
    } else if says(&["unknown filesystem type"]) {
        ErrorKind::Unsupported
    } else if says(&["bad superblock", "needs cleaning", "can't read superblock"]) {
        ErrorKind::Corrupt
    } else {
        ErrorKind::Io
    }
}

/// Begins to attach a free device to `file`, past the page cache, which would keep the daemon's bytes twice.
pub(super) fn attach(file: &Path, writable: bool, stdin: File) -> Result<Child> {
    let mut losetup = tool("losetup", stdin);
    losetup.args(["--direct-io=on", "--show", "-f"]);
    if !writable {
        losetup.arg("-r");
    }
    start(losetup.arg("--").arg(file))
}

/// What became of it. `Conflict` if somebody else took the device that was free: try again.
pub(super) fn attached(child: Child, file: &Path) -> Result<Device> {
    let printed = finish(
        child,
        &format!("attach a loop device to {}", file.display()),
    )?;
    let found = at(Path::new(&printed)).filter(|found| found.file == file);
    found.map(|found| found.device).ok_or_else(|| {
        let what = format!("{printed} is not attached to {}", file.display());
        Error::new(ErrorKind::Io, what)
    })
}

/// How long a device may take to be let go of: whoever watches devices opens each for a moment.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);

/// Detaches a device. If something has it open the kernel does that when it is closed; `Conflict` if that takes long,
/// unless nobody is to wait.
pub(super) fn detach(device: &Device, wait: bool, stdin: File) -> Result<()> {
    let deed = format!("detach {}", device.path.display());
    let child = start(tool("losetup", stdin).arg("-d").arg(&device.path))?;
    if let Err(e) = finish(child, &deed) {
        // Somebody else may just have done it.
        return if device.is_attached() { Err(e) } else { Ok(()) };
    }
    let begin = Instant::now();
    while wait && device.is_attached() {
        if begin.elapsed() > PATIENCE {
            let what = format!(
                "{} is still open somewhere, and is detached when it is closed",
                device.path.display()
            );
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        thread::sleep(RETRY);
    }
    Ok(())
}
