//! Who may look: the owner, and others only where that was asked for.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;

use crate::kernel::mounts_seen_by;
use crate::oracle::{BLOCK, random_block, snapshot, sparse};
use crate::world::{Said, World, eventually, finish, limited, run, unless_busy};

const NOBODY: u32 = 65534;

const AS_NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--",
];

/// Runs a command as the user `nobody`.
fn as_nobody(program: &str, args: &[&str]) -> Said {
    let mut command = limited(AS_NOBODY[0]);
    finish(command.args(&AS_NOBODY[1..]).arg(program).args(args))
}

fn may_read(path: &Path) -> bool {
    as_nobody("head", &["-c", "1", path.to_str().unwrap()]).code == Some(0)
}

#[test]
fn roots_mount_is_roots_own_unless_others_are_allowed() {
    let Some(world) = World::for_everyone() else {
        return;
    };
    let id = snapshot(&world, 1, [(0, random_block(0))]);
    let mount = world.mount(&[&id]);
    let at = mount.dir.to_str().unwrap();
    fs::set_permissions(
        world.dir(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    assert!(!may_read(&mount.disk(&id)));
    assert_ne!(as_nobody("ls", &[at]).code, Some(0));
    // Not only by the mode: the kernel keeps others from asking at all.
    assert_ne!(as_nobody("stat", &[at]).code, Some(0));
    world.unmount(&mount);

    let mount = world.mount_with(&[&id], &["--allow-other"]);
    assert!(may_read(&mount.disk(&id)));
    as_nobody("ls", &[mount.dir.to_str().unwrap()]).ok();
    assert_eq!(fs::metadata(mount.disk(&id)).unwrap().mode() & 0o777, 0o444);
    assert_eq!(fs::metadata(&mount.dir).unwrap().mode() & 0o777, 0o555);
}

/// A world whose files are the user's, seen with a `/dev/fuse` that every user may open, as on most machines.
struct Nobody {
    world: World,
    id: String,
    /// A shell in the mount namespace that has this device.
    holder: Child,
}

impl Nobody {
    fn new() -> Option<Self> {
        let world = World::for_everyone()?;
        for name in ["mnt", "nobody"] {
            chown(world.empty(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let image = world.path("nobody/image");
        sparse(&image, BLOCK, Some(0..BLOCK), 1);
        chown(&image, Some(NOBODY), Some(NOBODY)).unwrap();
        let script = r#"mount -t tmpfs none "$1" && mknod -m 666 "$1/fuse" c 10 229 &&
            mount --bind "$1/fuse" /dev/fuse && echo ready && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(world.empty("dev"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        assert_eq!(said, *b"ready\n");
        let mut nobody = Self {
            world,
            id: String::new(),
            holder,
        };
        let image = nobody.path("nobody/image");
        nobody.id = nobody.ebsfs(&["import", &image]).ok().trim_end().to_owned();
        Some(nobody)
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).to_str().unwrap().to_owned()
    }

    /// A path as root sees it through the holder.
    fn inside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.holder.id()).into()
    }

    /// Runs a command as the user.
    fn run(&self, program: &str, args: &[&str]) -> Said {
        let mut command = limited("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m", "--"]);
        command.args(AS_NOBODY).arg(program).args(args);
        let mut command = self.world.surround(command);
        let own = self.path("nobody");
        finish(
            command
                .env("XDG_STATE_HOME", &own)
                .env("XDG_RUNTIME_DIR", &own),
        )
    }

    fn ebsfs(&self, args: &[&str]) -> Said {
        let program = self.world.program_for_all();
        let store = self.path("nobody/store");
        self.run(
            program.to_str().unwrap(),
            &[&["--store", &store], args].concat(),
        )
    }

    /// Mounts on `mnt`.
    fn mount(&self, options: &[&str]) -> Said {
        let at = self.path("mnt");
        self.ebsfs(&[&["mount"], options, &[&self.id, &at]].concat())
    }

    fn is_mounted(&self) -> bool {
        let mnt = self.world.path("mnt");
        !mounts_seen_by(&self.holder.id().to_string(), &mnt).is_empty()
    }

    fn ended(&self) {
        eventually("the daemon ends", || {
            self.world.daemons().is_empty().then_some(())
        });
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        if self.is_mounted() {
            self.ebsfs(&["umount", "--lazy", &self.path("mnt")]);
        }
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    let Some(nobody) = Nobody::new() else { return };
    let said = nobody.mount(&[]);
    assert_eq!((said.code, &*said.out, &*said.err), (Some(0), "", ""));
    let disk = nobody.path(&format!("mnt/{}.img", nobody.id));
    let owner = nobody.run("stat", &["-c", "%u %g %a", &disk]).ok();
    assert_eq!(owner, "65534 65534 400\n");
    let image = nobody.path("nobody/image");
    nobody.run("cmp", &["--bytes=524288", &disk, &image]).ok();
    let error = fs::metadata(nobody.inside(&disk)).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(Errno::ACCESS.raw_os_error()),
        "root is refused"
    );
    unless_busy(|| nobody.ebsfs(&["umount", &nobody.path("mnt")])).ok();
    assert!(!nobody.is_mounted());
    nobody.ended();
}

#[test]
fn an_ordinary_users_busy_mount_is_not_taken_away() {
    let Some(nobody) = Nobody::new() else { return };
    nobody.mount(&[]).ok();
    let at = nobody.path("mnt");
    let disk = nobody.path(&format!("mnt/{}.img", nobody.id));
    // The shell holds the file open while it tries.
    let program = nobody.world.program_for_all();
    let script = r#"exec 3<"$1"; "$2" umount "$3"; echo $?; head -c 1 <&3 | wc -c"#;
    let said = nobody.run(
        "sh",
        &["-c", script, "sh", &disk, program.to_str().unwrap(), &at],
    );
    assert_eq!(said.out, "2\n1\n", "{said:?}");
    assert!(said.err.contains("in use"), "{said:?}");
    unless_busy(|| nobody.ebsfs(&["umount", &at])).ok();
    nobody.ended();
}

#[test]
fn an_ordinary_users_daemon_ends_by_a_signal_and_its_dead_mount_is_mended() {
    let Some(nobody) = Nobody::new() else { return };
    for signal in ["-TERM", "-KILL"] {
        nobody.mount(&[]).ok();
        let pid = nobody.world.daemons()[0].as_raw_nonzero().to_string();
        nobody.run("kill", &[signal, &pid]).ok();
        nobody.ended();
        if signal == "-KILL" {
            assert!(nobody.is_mounted());
            unless_busy(|| nobody.ebsfs(&["umount", &nobody.path("mnt")])).ok();
        }
        assert!(!nobody.is_mounted(), "{signal}");
    }
}

#[test]
fn an_ordinary_user_lets_others_in_only_where_the_machine_permits_it() {
    let Some(nobody) = Nobody::new() else { return };
    let said = nobody.mount(&["--allow-other"]);
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !conf.lines().any(|line| line.trim() == "user_allow_other") {
        said.refused(4, &["user_allow_other", "/etc/fuse.conf"]);
        assert!(!nobody.is_mounted());
        assert!(nobody.world.daemons().is_empty());
        // The same machine with the line in that file, seen only from inside.
        let allowing = nobody.path("allowing");
        fs::write(&allowing, "user_allow_other\n").unwrap();
        let holder = nobody.holder.id().to_string();
        let bind = [
            "-t",
            &holder,
            "-m",
            "mount",
            "--bind",
            &allowing,
            "/etc/fuse.conf",
        ];
        run("nsenter", bind).ok();
        nobody.mount(&["--allow-other"]).ok();
    }
    let disk = nobody.path(&format!("mnt/{}.img", nobody.id));
    let meta = fs::metadata(nobody.inside(&disk)).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (NOBODY, 0o444));
}

#[test]
fn an_ordinary_user_mounts_on_no_directory_of_others() {
    let Some(nobody) = Nobody::new() else { return };
    let roots = nobody.world.empty("roots");
    run("chmod", ["755", roots.to_str().unwrap()]).ok();
    let said = nobody.ebsfs(&["mount", &nobody.id, roots.to_str().unwrap()]);
    said.refused(4, &["cannot mount on", "no write access"]);
    assert!(!nobody.is_mounted());
}
