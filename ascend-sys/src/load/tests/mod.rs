mod fake;
mod parts;

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use fake::{Fake, Folder};

use super::*;

/// The number of the library that AscendCL was taken from.
fn number(cann: &Cann) -> i32 {
    // SAFETY: a function of `Fake`, which looks at no argument.
    unsafe { (cann.acl.aclInit)(std::ptr::null()) }
}

/// What a process with these variables, and `usual` for `/usr/local/Ascend`, looks at.
fn search(variables: &[(&str, &Path)], usual: &Path) -> Search {
    let variables: HashMap<String, OsString> =
        variables.iter().map(|(name, path)| ((*name).to_owned(), path.into())).collect();
    Search::from(|name| variables.get(name).cloned(), usual)
}

#[test]
fn a_missing_required_symbol_is_named_together_with_its_library() {
    for symbol in acl::GROUPS[0].symbols {
        let folder = Folder::new();
        Fake::acl(1).without(symbol).install(folder.path(), "libacl_rt.so");
        let error = Cann::load(&Search::at(folder.path())).expect_err("a required symbol is missing");
        let library = folder.join("lib64/libacl_rt.so");
        assert_eq!(error, LoadError::Unusable(WhyNot::MissingSymbol { library: library.clone(), symbol }));
        let text = error.to_string();
        assert!(text.contains(symbol) && text.contains(&library.display().to_string()), "{text}");
    }
}

#[test]
fn a_group_is_there_only_when_all_of_it_is() {
    let folder = Folder::new();
    let [memcpy_2d, ipc] = ["memcpy_2d", "ipc"].map(|name| {
        let group = acl::GROUPS.iter().find(|group| group.name == name);
        group.expect("the table has this group").symbols
    });
    let fake = Fake::acl(1).with(memcpy_2d).with(&ipc[1..]);
    fake.install(folder.path(), "libacl_rt.so");
    let cann = Cann::load(&Search::at(folder.path())).expect("all required symbols are there");
    assert!(cann.acl.memcpy_2d.is_some());
    assert!(cann.acl.ipc.is_none(), "one function of the group is missing");
    assert!(cann.acl.vmm.is_none(), "the whole group is missing");
}

#[test]
fn the_old_library_is_asked_for_what_the_thin_one_lacks() {
    let folder = Folder::new();
    Fake::acl(1).without("aclrtStreamAbort").install(folder.path(), "libacl_rt.so");
    Fake::acl(2).install(folder.path(), "libascendcl.so");
    let cann = Cann::load(&Search::at(folder.path())).expect("together they have everything");
    assert_eq!(number(cann), 1);
    // SAFETY: a function of `Fake`, which looks at no argument.
    assert_eq!(unsafe { (cann.acl.aclrtStreamAbort)(std::ptr::null_mut()) }, 2);
    let names: Vec<String> = cann.libraries().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["libacl_rt.so", "libascendcl.so"]);
}

#[test]
fn the_old_library_alone_will_do() {
    let folder = Folder::new();
    Fake::acl(7).install(folder.path(), "libascendcl.so");
    assert_eq!(number(Cann::load(&Search::at(folder.path())).expect("it is complete")), 7);
}

#[test]
fn places_are_tried_in_the_documented_order() {
    let folder = Folder::new();
    let [home, toolkit, usual] = ["home", "toolkit", "usual"].map(|name| folder.join(name));
    let places = [
        home.clone(),
        toolkit.clone(),
        usual.join("cann"),
        usual.join("ascend-toolkit/latest"),
        usual.join("cann-9.1.0"),
        usual.join("cann-8.5.0"),
    ];
    for (number, place) in (1..).zip(&places) {
        Fake::acl(number).install(place, "libacl_rt.so");
    }
    let search = || search(&[("ASCEND_TOOLKIT_HOME", &toolkit), ("ASCEND_HOME_PATH", &home)], &usual);
    for (wanted, place) in (1..).zip(&places) {
        assert_eq!(number(Cann::load(&search()).expect("a place is left")), wanted);
        fs::remove_dir_all(place.join("lib64")).expect("it was made above");
    }
}

#[test]
fn our_own_variable_comes_first_and_decides_alone() {
    let folder = Folder::new();
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.join(name));
    Fake::acl(1).install(&ours, "libacl_rt.so");
    Fake::acl(2).install(&theirs, "libacl_rt.so");
    let search = search(&[("ROPEWAY_CANN_PATH", &ours), ("ASCEND_HOME_PATH", &theirs)], &theirs);
    assert_eq!(number(Cann::load(&search).expect("it is complete")), 1);
    fs::remove_dir_all(&ours).expect("it was made above");
    let text = Cann::load(&search).expect_err("the named folder is gone").to_string();
    assert!(text.contains("ROPEWAY_CANN_PATH") && text.contains("is no folder"), "{text}");
}

#[test]
fn the_folder_of_the_architecture_is_looked_into_as_well() {
    let folder = Folder::new();
    Fake::acl(5).build(&folder.join(&format!("{}-linux/lib64/libacl_rt.so", env::consts::ARCH)));
    assert_eq!(number(Cann::load(&Search::at(folder.path())).expect("it is complete")), 5);
}

#[test]
fn when_nothing_is_found_the_error_lists_every_place() {
    let folder = Folder::new();
    let [empty, gone] = ["empty", "gone"].map(|name| folder.join(name));
    fs::create_dir(&empty).expect("a folder can be made");
    let search = search(&[("ASCEND_HOME_PATH", &empty)], &gone);
    let LoadError::NotFound { looked } = Cann::load(&search).expect_err("there is no CANN here") else {
        panic!("nothing was found, so nothing can be unusable");
    };
    let told: Vec<String> = looked.iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "ROPEWAY_CANN_PATH (not set)");
    assert_eq!(
        told[1],
        format!("ASCEND_HOME_PATH ({}: has no lib64/libacl_rt.so nor lib64/libascendcl.so)", empty.display())
    );
    assert_eq!(told[2], "ASCEND_TOOLKIT_HOME (not set)");
    assert_eq!(told[3], format!("the usual folder ({}: is no folder)", gone.display()));
    assert!(told[4].starts_with("the loader's path (libacl_rt.so: "), "{told:?}");
    assert!(told[5].starts_with("the loader's path (libascendcl.so: "), "{told:?}");
    let text = LoadError::NotFound { looked }.to_string();
    assert!(text.contains(&told[1]) && text.contains("ROPEWAY_CANN_PATH"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_an_error_and_no_other_place_is_tried() {
    let folder = Folder::new();
    let [broken, whole] = ["broken", "whole"].map(|name| folder.join(name));
    fs::create_dir_all(broken.join("lib64")).expect("a folder can be made");
    let file = broken.join("lib64/libacl_rt.so");
    fs::write(&file, "no library").expect("a file can be written");
    Fake::acl(1).install(&whole, "libacl_rt.so");
    let search = search(&[("ASCEND_HOME_PATH", &broken), ("ASCEND_TOOLKIT_HOME", &whole)], &whole);
    match Cann::load(&search).expect_err("it cannot be opened") {
        LoadError::Unusable(WhyNot::CannotOpen { library, said }) => {
            assert_eq!(library, file);
            assert!(!said.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_installation_is_loaded_once_whatever_its_folder_is_called() {
    let folder = Folder::new();
    let [root, alias] = ["cann-9.1.0", "cann"].map(|name| folder.join(name));
    Fake::acl(1).install(&root, "libacl_rt.so");
    std::os::unix::fs::symlink(&root, &alias).expect("a link can be made");
    let one = Cann::load(&Search::at(&root)).expect("it is complete");
    let other = Cann::load(&Search::at(&alias)).expect("it is the same");
    assert!(std::ptr::eq(one, other));
    assert_eq!(one.root(), root);
}

#[test]
fn the_loader_is_asked_last() {
    const HERE: &str = "ROPEWAY_TEST_LOADER";
    if let Some(here) = env::var_os(HERE) {
        let here = Path::new(&here);
        let cann = Cann::load(&search(&[], &here.join("gone"))).expect("the loader's path has one");
        assert_eq!(number(cann), 3);
        let root = here.join("loader");
        assert_eq!(cann.root(), root);
        assert_eq!(cann.libraries(), [("libacl_rt.so".to_owned(), root.join("lib64/libacl_rt.so"))]);
        return;
    }
    let folder = Folder::new();
    Fake::acl(3).install(&folder.join("loader"), "libacl_rt.so");
    let lib64 = folder.join("loader/lib64");
    // The loader reads its path when a process starts, hence a process of its own.
    let this = env::current_exe().expect("a test knows its program");
    let name = std::thread::current().name().map(ToOwned::to_owned).expect("a test's thread has its name");
    let output = Command::new(this)
        .args(["--exact", &name])
        .env(HERE, folder.path())
        .env("LD_LIBRARY_PATH", lib64)
        .output()
        .expect("a test can run itself");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
