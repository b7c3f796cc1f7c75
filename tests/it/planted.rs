//! The defects and panics that are planted to see the tests catch them: a change of the code must
//! not leave one behind that can be planted no more.

use std::{fs, path::Path};

const DEFECTS: &str = "tests/mutations";
const PANICS: &str = "tests/conformance/panics.toml";

/// What is wrong with a list: code that is not there, or not once.
fn misplaced(list: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let list: toml::Table = list.parse().unwrap();
    let defects = list["defect"].as_array().unwrap();
    assert!(!defects.is_empty());
    let said = |defect: &toml::Value, field: &str| defect[field].as_str().unwrap().to_owned();
    let places = defects.iter().map(|defect| {
        let (file, right) = (said(defect, "file"), said(defect, "right"));
        (read(&file).matches(&right).count(), file, right)
    });
    let wrong = places.filter(|(count, ..)| *count != 1);
    wrong.map(|(count, file, right)| format!("{file} has {count} times: {right}")).collect()
}

#[test]
fn every_planted_defect_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let paths = fs::read_dir(root.join(DEFECTS)).unwrap().map(|entry| entry.unwrap().path());
    let lists = paths.filter(|path| path.extension().is_some_and(|it| it == "toml"));
    let mut lists: Vec<_> = lists.collect();
    assert!(lists.len() > 1, "{lists:?}");
    lists.push(root.join(PANICS));
    for list in lists {
        let text = fs::read_to_string(&list).unwrap();
        assert_eq!(misplaced(&text, read), [""; 0], "{}", list.display());
    }
}

#[test]
fn a_defect_without_its_place_is_found() {
    let list = "[[defect]]\nfile = \"a\"\nright = \"x\"\n[[defect]]\nfile = \"b\"\nright = \"x\"";
    let read = |file: &str| if file == "a" { "x" } else { "x x" }.to_owned();
    assert_eq!(misplaced(list, read), ["b has 2 times: x"]);
}
