//! Which store is meant, what is no store, and who may do what in one.

use std::fs;

use crate::devices::Mounted;
use crate::images::{Disk, GIB, MIB, assert_volume};
use crate::program::{Ran, Running, Sandbox, id_of, is_root, tool};

fn run_without_store(sandbox: &Sandbox, arguments: &[&str]) -> Ran {
    let mut command = sandbox.command(arguments);
    command.env_remove("EBSFS_STORE");
    Running::start(command).finish()
}

#[test]
fn the_store_is_named_before_or_after_the_verb_or_by_the_environment() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    let import = |arguments: &[&str]| id_of(&run_without_store(&sandbox, arguments).succeeds());
    let a = import(&["--store", "a", "import", "disk.img"]);
    let b = import(&["import", "disk.img", "--store", "b"]);
    let c = import(&["import", "--store=c", "disk.img"]);
    // The variable names `store`.
    let d = sandbox.import(&["disk.img"]);
    // The option wins over it.
    let e = sandbox.import(&["--store", "e", "disk.img"]);
    for (dir, id) in [("a", a), ("b", b), ("c", c), ("store", d), ("e", e)] {
        let listed = sandbox
            .run(&["--store", dir, "list", "--json"])
            .succeeds_silently();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.len(), 1, "{dir}");
        assert_eq!(listed[0]["id"], *id, "{dir}");
    }
}

#[test]
fn without_a_store_and_a_region_every_verb_says_how_to_name_one() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    let id = "snap-0";
    fs::create_dir(sandbox.path("mnt")).unwrap();
    for arguments in [
        &["import", "disk.img"][..],
        &["list"],
        &["info", id],
        &["mount", "mnt"],
        &["export", id, "out.img"],
        &["delete", "--yes", id],
        &["gc"],
    ] {
        let words = match arguments {
            ["gc"] => ["a directory", "--store DIR"],
            _ => ["no AWS region", "--store DIR"],
        };
        run_without_store(&sandbox, arguments).fails(2, &words);
        let mut command = sandbox.command(arguments);
        command.env("EBSFS_STORE", "");
        Running::start(command).finish().fails(2, &words);
    }
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    fs::write(sandbox.path("file"), "text").unwrap();
    fs::create_dir(sandbox.path("foreign")).unwrap();
    fs::write(sandbox.path("foreign/letter"), "text").unwrap();
    fs::create_dir(sandbox.path("newer")).unwrap();
    let newer = "ebsfs-store 2 00\n{}\n";
    fs::write(sandbox.path("newer/format"), newer).unwrap();
    fs::create_dir(sandbox.path("torn")).unwrap();
    fs::write(sandbox.path("torn/format"), "ebsfs-store 1 ").unwrap();
    for (store, code, words) in [
        ("file", 2, ["is a file", "file"]),
        ("foreign", 2, ["is no store", "foreign"]),
        ("newer", 2, ["version 2", "newer/format"]),
        ("torn", 5, ["not a whole ebsfs-store record", "torn/format"]),
    ] {
        for verb in [&["list"][..], &["import", "disk.img"], &["gc"]] {
            sandbox
                .run(&[&["--store", store], verb].concat())
                .fails(code, &words);
        }
    }
    assert_eq!(fs::read(sandbox.path("file")).unwrap(), b"text");
    assert_eq!(fs::read_dir(sandbox.path("foreign")).unwrap().count(), 1);
    assert_eq!(
        fs::read(sandbox.path("newer/format")).unwrap(),
        newer.as_bytes()
    );
    assert!(!sandbox.path("aws").exists());

    let id = "snap-0";
    for verb in [
        &["list"][..],
        &["info", id],
        &["gc"],
        &["delete", "-y", id],
        &["export", id, "o"],
    ] {
        let words = ["no store at", "missing", "import IMAGE"];
        sandbox
            .run(&[&["--store", "missing"], verb].concat())
            .fails(3, &words);
    }
    assert!(!sandbox.path("missing").exists());
}

#[test]
fn an_empty_directory_and_a_store_that_a_crash_left_half_made_become_stores() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(7, 7);
    fs::create_dir(sandbox.path("empty")).unwrap();
    fs::create_dir(sandbox.path("torn")).unwrap();
    fs::write(sandbox.path("torn/.12-0.tmp"), "ebsfs-st").unwrap();
    for store in ["empty", "torn", "deep/in/a/new/place"] {
        let id = sandbox.import(&["--store", store, "disk.img"]);
        sandbox
            .run(&[
                "--store",
                store,
                "export",
                &id,
                store.split('/').next().unwrap(),
            ])
            .fails(2, &["is a directory"]);
        let out = format!("{}.img", store.len());
        sandbox
            .run(&["--store", store, "export", &id, &out])
            .succeeds_silently();
        assert_volume(&sandbox.path(&out), &sandbox.path("disk.img"));
    }
}

#[test]
fn ids_are_malformed_unknown_or_pending() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 120, 1);
    let verbs = |id: &str| {
        [
            vec!["info".to_owned(), id.to_owned()],
            vec!["export".to_owned(), id.to_owned(), "out.img".to_owned()],
        ]
    };
    let run =
        |verb: &Vec<String>| sandbox.run(&verb.iter().map(String::as_str).collect::<Vec<_>>());
    let mut import = sandbox.start(&["import", "disk.img"]);
    assert!(
        import.until(|| sandbox.block_files() > 0),
        "it was too fast"
    );
    import.kill();
    for id in ["snap-", "snap-XYZ", "vol-1", "snap-0/../../x", ""] {
        for verb in verbs(id) {
            run(&verb).fails(2, &["is not a snapshot id"]);
        }
        sandbox
            .run(&["delete", "--yes", id])
            .fails(2, &["is not a snapshot id"]);
    }
    for verb in verbs("snap-0123") {
        run(&verb).fails(3, &["snap-0123", "no such snapshot", "ebsfs list"]);
    }
    let listed = sandbox.list();
    assert_eq!((listed.len(), &listed[0]["status"]), (1, &"pending".into()));
    let id = listed[0]["id"].as_str().unwrap();
    sandbox
        .run(&["export", id, "out.img"])
        .fails(2, &[id, "still pending"]);
    sandbox
        .run(&["export", id, "-"])
        .fails(2, &[id, "still pending"]);
    assert!(!sandbox.path("out.img").exists() && !sandbox.path("out.img.partial").exists());
    let info = sandbox.info(id);
    assert_eq!(info["status"], "pending");
    assert!(info.get("blocks").is_none());
}

/// Who may only read the store `store` can read all of it, and is told what is not permitted.
fn assert_only_readable(run: &dyn Fn(&[&str]) -> Ran, id: &str, code: i32, words: &[&str]) {
    assert!(run(&["list"]).succeeds_silently().contains(id));
    assert!(run(&["info", id]).succeeds_silently().contains("2 present"));
    run(&["import", "disk.img"]).fails(code, words);
    run(&["delete", "--yes", id]).fails(code, words);
    run(&["gc"]).fails(code, words);
}

#[test]
fn a_store_of_somebody_else_is_read_and_not_written() {
    if !is_root("a_store_of_somebody_else_is_read_and_not_written") {
        return;
    }
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 3 * MIB)
        .block(0, 1)
        .block(5, 2);
    let id = sandbox.import(&["disk.img"]);
    let store = sandbox.store();
    let run = |arguments: &[&str]| sandbox.run_as_nobody(arguments);

    run(&["list"]).fails(4, &[store.to_str().unwrap(), "denied"]);
    tool("chmod", &["-R", "a+rX", store.to_str().unwrap()]);
    assert_only_readable(&run, &id, 4, &["store", "denied"]);
    run(&["export", &id, "nobody/out.img"]).succeeds_silently();
    assert_volume(&sandbox.path("nobody/out.img"), &sandbox.path("disk.img"));
    run(&["export", &id, "out.img"]).fails(4, &["out.img", "denied"]);

    // A place where nobody may make a store.
    run(&["--store", "elsewhere", "import", "disk.img"]).fails(4, &["elsewhere", "denied"]);
    assert!(!sandbox.path("elsewhere").exists());
}

#[test]
fn a_store_on_a_read_only_file_system_is_read() {
    if !is_root("a_store_on_a_read_only_file_system_is_read") {
        return;
    }
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 3 * MIB)
        .block(0, 1)
        .block(5, 2);
    let id = sandbox.import(&["disk.img"]);
    let _view = Mounted::read_only_view(&sandbox.store(), &sandbox.path("view"));
    let run = |arguments: &[&str]| sandbox.run(&[&["--store", "view"], arguments].concat());
    assert_only_readable(&run, &id, 1, &["view", "Read-only file system"]);
    run(&["export", &id, "out.img"]).succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn without_a_state_directory_the_work_is_done_all_the_same() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    fs::write(
        sandbox.path("state"),
        "a file where the directory should be",
    )
    .unwrap();
    let ran = sandbox.run(&["import", "disk.img"]);
    let id = id_of(&ran.succeeds_and_tells(&["cannot be continued", "state/ebsfs"]));
    let ran = sandbox.run(&["export", &id, "out.img"]);
    ran.succeeds_and_tells(&["cannot be continued"]);
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}
