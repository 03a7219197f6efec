//! `ebsfs map`: what the picture shows, in which characters and colours, and as SVG.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use ebsfs::store::directory::DirectoryStore;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

use crate::common::{block_on, snap};
use crate::images::{BLOCK, Disk, GIB};
use crate::program::{Running, Sandbox, tool};
use crate::serving::Server;
use crate::world::{Mount, World, finish};

/// A disk of 1 GiB with a system and a data partition, and what became of it.
fn edited(sandbox: &Sandbox) -> (String, String) {
    let disk = Disk::new(sandbox.path("old.img"), GIB);
    let image = disk.path().to_str().unwrap().to_owned();
    let layout = [
        "-n1:2048:526335",
        "-c1:system",
        "-n14:526336:0",
        "-c14:<data> & more",
    ];
    tool("sgdisk", &[&["-o"][..], &layout, &[&image]].concat());
    drop(disk.blocks(2, 100, 1).blocks(700, 4, 2));
    fs::copy(sandbox.path("old.img"), sandbox.path("new.img")).unwrap();
    let new = fs::File::options()
        .write(true)
        .open(sandbox.path("new.img"))
        .unwrap();
    new.write_all_at(b"changed", 701 * BLOCK).unwrap();
    new.write_all_at(b"added", 1000 * BLOCK).unwrap();
    let from = sandbox.import(&["old.img"]);
    let to = sandbox.import(&["new.img", "--parent", &from]);
    (from, to)
}

/// The rows of the picture: what stands between an offset and the names of partitions.
fn rows(text: &str) -> Vec<(String, String, String)> {
    let mut rows = text.lines().skip(3).take_while(|line| !line.is_empty());
    let row = |line: &str| {
        let (offset, rest) = line.split_at(11);
        let (cells, names) = rest.split_once("  ").unwrap_or((rest, ""));
        (
            offset.trim().to_owned(),
            cells.to_owned(),
            names.trim().to_owned(),
        )
    };
    rows.by_ref().map(row).collect()
}

#[test]
fn the_picture_shows_where_blocks_are_and_where_they_changed() {
    let sandbox = Sandbox::new();
    let (from, to) = edited(&sandbox);
    let text = sandbox.run(&["map", &from]).succeeds_silently();
    assert!(text.is_ascii(), "{text}");
    assert!(text.starts_with(&format!("{from}, 1 GiB\n")), "{text}");
    assert!(text.contains("a cell is 512 KiB"), "{text}");
    let told = rows(&text);
    // 32 rows of 64 cells, and a cell is a block.
    assert_eq!(told.len(), 32);
    let row = |cells: &str, names: &str, offset: &str| {
        (offset.to_owned(), format!("{cells:.<64}"), names.to_owned())
    };
    assert_eq!(told[0], row(&format!("=.{}", "=".repeat(62)), "p1", "0 B"));
    assert_eq!(told[1], row(&"=".repeat(38), "p1", "32 MiB"));
    assert_eq!(told[8], row("", "p1+", "256 MiB"));
    let row_of_700 = format!("{}====", ".".repeat(700 % 64));
    assert_eq!(told[10], row(&row_of_700, "p14", "320 MiB"));
    assert_eq!(told[31].1, format!("{}=", ".".repeat(63)));
    for line in [
        "absent         1942 blocks  971.00 MiB",
        "present         106 blocks   53.00 MiB",
        "p1  256.00 MiB at byte 1048576, 50.00 MiB present, system",
        "p14  766.98 MiB at byte 269484032, 2.50 MiB present, <data> & more",
    ] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    assert!(!text.contains("changed") && !text.contains("cached"));

    let text = sandbox.run(&["map", &from, &to]).succeeds_silently();
    let title = format!("{to}, 1 GiB, since {from}\n");
    assert!(text.starts_with(&title), "{text}");
    let told = rows(&text);
    let row_of_700 = format!("{}=*==", ".".repeat(700 % 64));
    assert_eq!(told[10], row(&row_of_700, "p14", "320 MiB"));
    let row_of_1000 = format!("{}*", ".".repeat(1000 % 64));
    assert_eq!(told[15], row(&row_of_1000, "p14", "480 MiB"));
    assert!(
        text.contains("changed           2 blocks    1.00 MiB"),
        "{text}"
    );
    assert!(
        text.contains("3.00 MiB present, 1.00 MiB changed, <data>"),
        "{text}"
    );
}

#[test]
fn the_largest_disk_has_a_picture_of_the_same_size() {
    let sandbox = Sandbox::new();
    let id = block_on(async {
        let store = DirectoryStore::create(&sandbox.store()).unwrap();
        let last = (1 << 27) - 1;
        let snapshot = snap(65536).block(0, 1).block(70_000_000, 2).block(last, 3);
        snapshot.build(&store).await.to_string()
    });
    let mut command = sandbox.command(&["map", &id]);
    command.env("COLUMNS", "60");
    let text = Running::start(command).finish().succeeds_silently();
    let told = rows(&text);
    assert_eq!(told.len(), 32);
    assert!(text.contains("a cell is 64 GiB"), "{text}");
    let present: usize = told
        .iter()
        .map(|(_, cells, _)| cells.matches('-').count())
        .sum();
    assert_eq!(present, 3, "{text}");
    assert!(
        text.lines()
            .all(|line| line.len() <= 60 || line.contains("blocks"))
    );
}

#[test]
fn an_svg_is_one_well_formed_file() {
    let sandbox = Sandbox::new();
    let (from, to) = edited(&sandbox);
    let out = sandbox
        .run(&["map", &from, &to, "-o", "map.svg"])
        .succeeds_silently();
    assert_eq!(out, "");
    let svg = fs::read_to_string(sandbox.path("map.svg")).unwrap();
    let on_stdout = sandbox
        .run(&["map", &from, &to, "-o", "-"])
        .succeeds_silently();
    assert_eq!(on_stdout, svg);
    let mut reader = Reader::from_str(&svg);
    let (mut depth, mut text) = (0, String::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) => {
                assert!(depth > 0 || tag.name().as_ref() == "svg");
                depth += 1;
            }
            Event::End(_) => depth -= 1,
            Event::Text(words) => text.push_str(&words),
            Event::GeneralRef(name) => text.push_str(&name),
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    for words in [
        &*from,
        &to,
        "1.00 MiB in 2 blocks",
        "p14",
        "ltdatagt amp more",
    ] {
        let text = text.replace([' ', ';', '&'], "");
        let words = words.replace(' ', "");
        assert!(text.contains(&words), "{words:?} is missing: {text}");
    }
    // Where it cannot be written that is told.
    let ran = sandbox.run(&["map", &from, "-o", "no/such/map.svg"]);
    ran.fails(3, &["no/such/map.svg"]);
}

/// What a terminal of 100 columns is sent.
fn on_a_terminal(sandbox: &Sandbox, id: &str, variables: &[(&str, &str)]) -> String {
    let mut command = sandbox.command(&[]);
    let program = command.get_program().to_str().unwrap().to_owned();
    let shell = format!("stty cols 100 rows 50; {program} map {id} 2>/dev/null");
    let mut script = Command::new("timeout");
    script.args(["-s", "KILL", "60", "script", "-qec", &shell, "/dev/null"]);
    let inherited = command.get_envs();
    let inherited: Vec<_> = inherited
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = script;
    command
        .current_dir(sandbox.path(""))
        .envs(inherited)
        .env_remove("NO_COLOR")
        .env_remove("LC_CTYPE")
        .env("TERM", "xterm")
        .env("LC_ALL", "C.UTF-8")
        .envs(variables.iter().copied());
    Running::start({
        command.stdout(std::process::Stdio::piped());
        command
    })
    .finish()
    .succeeds()
}

#[test]
fn colours_and_shades_are_for_terminals_that_have_them() {
    let sandbox = Sandbox::new();
    let (from, _) = edited(&sandbox);
    let rich = on_a_terminal(&sandbox, &from, &[]);
    assert!(rich.contains("\u{1b}[94m▒") && rich.contains('·'), "{rich}");
    // 64 cells are what fits.
    let row = rich.lines().find(|line| line.contains("32 MiB")).unwrap();
    let cells = row.chars().filter(|c| "▒·".contains(*c)).count();
    assert_eq!(cells, 64, "{row:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_a_terminal(&sandbox, &from, &[(name, value)]);
        assert!(!plain.contains('\u{1b}') && plain.contains('▒'), "{plain}");
    }
    let ascii = on_a_terminal(&sandbox, &from, &[("LC_ALL", "C")]);
    assert!(ascii.is_ascii() && ascii.contains("\u{1b}[94m="), "{ascii}");
}

#[test]
fn what_this_machine_keeps_is_shown_without_a_trace_or_a_lock() {
    let Some(world) = World::new() else { return };
    let image = world.path("disk.img");
    drop(
        Disk::new(&image, 2 * GIB)
            .blocks(0, 64, 1)
            .blocks(900, 4, 2),
    );
    let id = world.import(&image);
    let server = Server::start(world.dir(), &[]);
    let client = |arguments: &[&str]| {
        let mut command = world.bare();
        server.environment(&mut command);
        command.args(arguments);
        command
    };
    let text = finish(&mut client(&["map", &id])).ok();
    assert!(text.contains("cached            0 blocks"), "{text}");
    assert!(!world.path("cache").exists(), "looking leaves something");

    let at = world.empty("mnt");
    let options = ["mount", "--no-read-ahead", &id, at.to_str().unwrap()];
    assert_eq!(finish(&mut client(&options)).ok(), "");
    let mount = Mount::at(at);
    let disk = fs::File::open(mount.disk(&id)).unwrap();
    // The kernel reads ahead as well, if nobody tells it.
    rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::Random).unwrap();
    let mut block = vec![0; BLOCK as usize];
    for index in (8..24).chain([902]) {
        disk.read_exact_at(&mut block, index * BLOCK).unwrap();
    }
    drop(disk);
    let kept = mount.count(&id, "disk_misses");
    world.unmount(&mount);

    // Also while somebody is alone with it.
    let files = crate::program::files_below(&world.path("cache/ebsfs/blocks/v1"));
    let lock = files
        .iter()
        .find(|file| file.ends_with("lock") && file.parent().unwrap().ends_with("v1").eq(&false))
        .unwrap();
    let held = fs::File::open(lock).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let before = files.len();
    let text = finish(&mut client(&["map", &id])).ok();
    let told = text.lines().find(|line| line.contains("cached")).unwrap();
    assert!(told.contains(&format!(" {kept} blocks ")), "{text}");
    // A cell is two blocks.
    let cells = rows(&text)[0].1.clone();
    assert!(
        cells.contains("=########") && cells.ends_with("......."),
        "{text}"
    );
    assert_eq!(
        rows(&text)[7].1.trim_matches('.').chars().next(),
        Some('='),
        "{text}"
    );
    let after = crate::program::files_below(&world.path("cache/ebsfs/blocks/v1"));
    assert_eq!(after.len(), before);

    let none = finish(&mut client(&["map", "--cache-disk-size", "none", &id])).ok();
    assert!(!none.contains("cached"), "{none}");
    let own = finish(&mut client(&["map", "--cache-dir", "other", &id])).ok();
    assert!(own.contains("cached            0 blocks"), "{own}");
    assert!(!world.path("other").exists());
    let svg = finish(&mut client(&["map", "-o", "-", &id])).ok();
    assert!(svg.contains(&format!(" in {kept} blocks")), "{svg}");
    let local = world.ebsfs(["map", "--cache-dir", "other", &id]);
    local.refused(2, &["--cache-dir", "local"]);
}
