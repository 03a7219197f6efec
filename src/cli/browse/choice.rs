//! Which file system of a disk is meant: the one that was named, or the one that holds the system.

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::HumanBytes;

use super::super::list::printable;
use super::super::stack::LINUX_ROOTS;
use super::content::{Content, content};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem;
use crate::partition::{Partition, read_table};
use crate::read_at::{Extent, ReadAt, check_range, read_padded};
use crate::snapshot::SnapshotId;

/// The whole disk or one of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// None: the whole disk.
    partition: Option<Partition>,
    /// The image file of it.
    pub(super) file: PathBuf,
    size: u64,
    pub(super) content: Option<Content>,
    /// Whether it has a directory `/etc`; looked for only where that may matter.
    has_etc: bool,
}

/// An image file as bytes.
struct Image {
    file: File,
    size: u64,
}

impl Image {
    fn open(path: &Path) -> Result<Self> {
        let cannot = |e| Error::io(e, "open", path);
        let file = File::open(path).map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn try_read_at(&self, _: u64, _: &mut [u8]) -> Result<bool> {
        Ok(false)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        Ok(read_padded(&self.file, offset, buf)?)
    }

    fn extent(&self, _: u64) -> Result<Extent> {
        Ok(Extent::Data { end: self.size })
    }

    fn allocated(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

/// What there is on the disk of `snapshot`, which is mounted at `mount`: its partitions, or the whole disk if it has none.
pub(super) fn candidates(
    mount: &Path,
    snapshot: &SnapshotId,
    stdin: &File,
) -> Result<Vec<Candidate>> {
    let path = mount.join(format!("{snapshot}.img"));
    let image = Image::open(&path)?;
    let table = read_table(&image)?;
    let part = |partition: Partition| Candidate {
        file: mount.join(format!("{snapshot}.p{}.img", partition.number)),
        size: partition.range.end - partition.range.start,
        partition: Some(partition),
        content: None,
        has_etc: false,
    };
    let mut candidates: Vec<_> = table.partitions.into_iter().map(part).collect();
    if candidates.is_empty() {
        candidates.push(Candidate {
            partition: None,
            file: path,
            size: image.size,
            content: None,
            has_etc: false,
        });
    }
    for candidate in &mut candidates {
        // One that was not shown, because the table was read anew, cannot be mounted.
        if fs::metadata(&candidate.file).is_ok() {
            candidate.content = content(&candidate.file, stdin.try_clone()?)?;
        }
    }
    let is_file_system = |candidate: &&mut Candidate| candidate.is_file_system();
    if candidates.iter_mut().filter(is_file_system).count() > 1 {
        for candidate in candidates.iter_mut().filter(is_file_system) {
            candidate.has_etc = has_etc(&candidate.file);
        }
    }
    Ok(candidates)
}

/// Whether the file system in `file` has a directory `/etc`, if it is one whose files are read here.
fn has_etc(file: &Path) -> bool {
    let look = || -> Result<()> {
        let tree = filesystem::open(Arc::new(Image::open(file)?))?;
        tree.lookup(tree.root(), b"etc").map(drop)
    };
    look().is_ok()
}

/// What is mounted into a root is called.
const BOOTS: [&str; 6] = [
    "boot",
    "/boot",
    "efi",
    "esp",
    "uefi",
    "efi system partition",
];
/// Types of partitions that say so: an EFI system partition, in either kind of table, and an extended boot loader.
const BOOT_TYPES: [&str; 3] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "0xef",
];

impl Candidate {
    fn is_file_system(&self) -> bool {
        let content = self.content.as_ref();
        content.is_some_and(|content| content.container().is_none())
    }

    /// Names by which it goes, in lower case.
    fn names(&self) -> Vec<String> {
        let content = self.content.iter();
        let content = content.flat_map(|content| [&content.label, &content.uuid]);
        let table = self.partition.iter().map(|partition| &partition.name);
        let names = content.flatten().chain(table);
        names
            .map(|name| name.to_lowercase())
            .filter(|name| !name.is_empty())
            .collect()
    }

    fn is_of(&self, types: &[&str]) -> bool {
        let kind = self.partition.as_ref().map(|partition| &*partition.kind);
        kind.is_some_and(|kind| types.contains(&kind))
    }

    fn is_for_booting(&self) -> bool {
        self.is_of(&BOOT_TYPES) || self.names().iter().any(|name| BOOTS.contains(&&**name))
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.partition {
            Some(partition) => write!(f, "partition {}", partition.number)?,
            None => write!(f, "the whole disk")?,
        }
        write!(f, ", {}", HumanBytes(self.size))?;
        let Some(content) = &self.content else {
            return write!(f, ", unknown");
        };
        write!(f, ", {}", content.kind)?;
        if let Some(label) = &content.label {
            write!(f, ", label {}", printable(label))?;
        }
        if let Some(uuid) = &content.uuid {
            write!(f, ", UUID {}", printable(uuid))?;
        }
        Ok(())
    }
}

/// The one that is meant. Without a name: the only file system there is, or that which holds a system's root.
pub(super) fn choose(candidates: &[Candidate], name: Option<&str>) -> Result<Candidate> {
    let chosen = match name {
        Some(name) => named(candidates, name)?,
        None => default(candidates)?,
    };
    let Some(content) = &chosen.content else {
        let what = format!("there is no file system that is known on {chosen}");
        return Err(Error::new(ErrorKind::Unsupported, listed(what, candidates)));
    };
    match content.container() {
        None => Ok(chosen.clone()),
        Some((what, remedy)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{chosen} is {what}, and no file system: {remedy}; FILE is {} once you have `ebsfs mount` the snapshot on DIR",
                Path::new("DIR")
                    .join(chosen.file.file_name().unwrap_or_default())
                    .display()
            ),
        )),
    }
}

fn named<'a>(candidates: &'a [Candidate], name: &str) -> Result<&'a Candidate> {
    let number = name.strip_prefix('p').unwrap_or(name).parse::<u32>().ok();
    let by_number = candidates.iter().find(|candidate| {
        let partition = candidate.partition.as_ref();
        number.is_some() && partition.map(|partition| partition.number) == number
    });
    if let Some(candidate) = by_number {
        return Ok(candidate);
    }
    let name = name.to_lowercase();
    let called: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.names().contains(&name))
        .collect();
    match called[..] {
        [candidate] => Ok(candidate),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            listed(format!("no partition {name:?}"), candidates),
        )),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            listed(
                format!("more than one is called {name:?}: name one by its number"),
                candidates,
            ),
        )),
    }
}

fn default(candidates: &[Candidate]) -> Result<&Candidate> {
    if let [only] = candidates {
        return Ok(only);
    }
    let all: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.is_file_system())
        .collect();
    let only = |is_it: &dyn Fn(&Candidate) -> bool| {
        let mut found = all.iter().copied().filter(|candidate| is_it(candidate));
        found.next().filter(|_| found.next().is_none())
    };
    let one = only(&|_| true)
        .or_else(|| only(&|candidate| candidate.is_of(&LINUX_ROOTS)))
        .or_else(|| only(&|candidate| candidate.has_etc))
        .or_else(|| only(&|candidate| !candidate.is_for_booting()));
    if let Some(one) = one {
        return Ok(one);
    }
    // What the only thing there is that is none, is told by the caller.
    let mut known = candidates
        .iter()
        .filter(|candidate| candidate.content.is_some());
    match known.next() {
        Some(only) if all.is_empty() && known.next().is_none() => Ok(only),
        Some(_) if !all.is_empty() => Err(Error::new(
            ErrorKind::Invalid,
            listed(
                "more than one file system may be meant: choose one by --partition N, its label or its UUID".into(),
                candidates,
            ),
        )),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            listed("no file system is known on this disk".into(), candidates),
        )),
    }
}

/// What there is beside the chosen one that a user may have meant.
pub(super) fn others(candidates: &[Candidate], chosen: &Candidate) -> String {
    let others = candidates
        .iter()
        .filter(|candidate| candidate.content.is_some() && candidate.file != chosen.file);
    let lines = others.map(|candidate| format!("\n  {candidate}"));
    lines.collect()
}

fn listed(what: String, candidates: &[Candidate]) -> String {
    let lines = candidates
        .iter()
        .map(|candidate| format!("\n  {candidate}"));
    format!("{what}; there are:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u32, kind: &str, label: &str) -> Candidate {
        let content = Content {
            kind: kind.into(),
            label: (!label.is_empty()).then(|| label.into()),
            uuid: Some(format!("0000-000{number}")),
        };
        Candidate {
            partition: (number > 0).then(|| Partition {
                number,
                range: 0..1,
                kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
                name: String::new(),
            }),
            file: format!("p{number}").into(),
            size: 1,
            has_etc: false,
            content: (!kind.is_empty()).then_some(content),
        }
    }

    #[track_caller]
    fn chosen(candidates: &[Candidate], name: Option<&str>) -> u32 {
        let chosen = choose(candidates, name).unwrap();
        chosen.partition.map_or(0, |partition| partition.number)
    }

    #[test]
    fn what_holds_the_system_is_taken_unless_another_is_named() {
        assert_eq!(chosen(&[candidate(0, "ext4", "")], None), 0);
        assert_eq!(chosen(&[candidate(0, "ext4", "disk")], Some("DISK")), 0);
        let only = [candidate(3, "xfs", ""), candidate(4, "swap", "")];
        assert_eq!(chosen(&only, None), 3);
        let ubuntu = [
            candidate(1, "ext4", "cloudimg-rootfs"),
            candidate(14, "", ""),
            candidate(15, "vfat", "UEFI"),
            candidate(16, "ext4", "BOOT"),
        ];
        assert_eq!(chosen(&ubuntu, None), 1);
        assert_eq!(chosen(&ubuntu, Some("p16")), 16);
        assert_eq!(chosen(&ubuntu, Some("boot")), 16);
        assert_eq!(chosen(&ubuntu, Some("0000-0001")), 1);
        let redhat = |etc: u32| {
            [2, 3].map(|number| Candidate {
                has_etc: number == etc,
                ..candidate(number, "xfs", "")
            })
        };
        assert_eq!(chosen(&redhat(3), None), 3);
        assert_eq!(chosen(&redhat(2), None), 2);
        let mut typed = redhat(2);
        if let Some(partition) = &mut typed[1].partition {
            partition.kind = LINUX_ROOTS[0].into();
        }
        assert_eq!(chosen(&typed, None), 3);
    }

    #[test]
    fn a_doubtful_choice_is_the_users() {
        let kind = |candidates: &[Candidate], name| choose(candidates, name).unwrap_err().kind();
        let two = [candidate(1, "ext4", "a"), candidate(2, "xfs", "a")];
        assert_eq!(kind(&two, None), ErrorKind::Invalid);
        assert_eq!(kind(&two, Some("a")), ErrorKind::Invalid);
        assert_eq!(kind(&two, Some("b")), ErrorKind::NotFound);
        assert_eq!(kind(&two, Some("3")), ErrorKind::NotFound);
        let none = [candidate(1, "", ""), candidate(2, "", "")];
        assert_eq!(kind(&none, None), ErrorKind::Unsupported);
        assert_eq!(kind(&none, Some("2")), ErrorKind::Unsupported);
        let text = choose(
            &[candidate(1, "", ""), candidate(2, "LVM2_member", "")],
            None,
        )
        .unwrap_err()
        .to_string();
        assert!(text.contains("LVM2") && text.contains("vgchange"), "{text}");
    }
}
