//! The README's worked example, run as it is written.

use std::path::Path;

use crate::world::{World, finish, limited};

#[test]
fn the_example_without_an_account_runs_as_written() {
    let Some(world) = World::new() else { return };
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("```bash\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_ebsfs")).parent().unwrap();
    let mut command = limited("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-e", "-c", example]).env(
        "PATH",
        format!("{}:{path}:/usr/sbin:/sbin", program.display()),
    );
    let said = finish(&mut world.surround(command)).ok();
    assert!(said.ends_with("the same\n"), "{said}");
    assert_eq!(said.matches("completed").count(), 1, "{said}");
}
