//! The files of `config/`, held against the code.
//!
//! `config/pgusher.toml` is the only place where settings are documented, so it must say what the code does: the
//! same keys, each once, with the same defaults. The other files are examples, and must work. What the README names
//! must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pgusher::cli::Flags;
use pgusher::config::{Config, Problems, Surroundings, keys};

/// A key as a documentation file has it: section, name, default, and whether a sentence stands above it.
#[derive(Debug)]
struct Documented {
    section: String,
    name: String,
    default: String,
    has_sentence: bool,
}

#[test]
fn every_key_is_documented_once_with_its_default() {
    let mut documented = BTreeMap::new();
    for key in documented_keys() {
        assert!(key.has_sentence, "no sentence: {key:?}");
        let place = format!("{}.{}", key.section, key.name);
        assert_eq!(documented.insert(place.clone(), key.default), None, "{place} is there twice");
    }

    let actual: BTreeMap<_, _> =
        keys().into_iter().map(|key| (format!("{}.{}", key.section, key.name), key.default)).collect();

    let names = |keys: &BTreeMap<String, String>| keys.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&documented), names(&actual));
    assert_eq!(documented, actual);
}

#[test]
fn the_documented_order_is_the_order_of_the_code() {
    let documented: Vec<_> = documented_keys().into_iter().map(|key| (key.section, key.name)).collect();
    let actual: Vec<_> = keys().into_iter().map(|key| (key.section, key.name.to_owned())).collect();

    assert_eq!(documented, actual);
}

#[test]
fn the_documented_file_changes_nothing_even_with_every_default_written_out() {
    let text = read("pgusher.toml");
    let written_out: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("# [databases"))
        .chain(text.lines().skip_while(|line| *line != "[identity]"))
        .map(|line| if assignment(line).is_some() { line.trim_start_matches("# ") } else { line })
        .collect();

    let nothing = load("");

    assert!(nothing.is_ok(), "{nothing:?}");
    assert_eq!(load(&text), nothing);
    assert_eq!(load(&written_out.join("\n")), nothing);
}

#[test]
fn the_examples_are_valid() {
    for (name, databases, users) in [("minimal.toml", 1, 1), ("sidecar.toml", 6, 6)] {
        let flags = Flags { config: Some(name.into()), ..Flags::default() };
        let config = Config::load(&flags, &surroundings(read(name), &[]));

        let config = config.unwrap_or_else(|problems| panic!("{name}:\n{problems}"));
        assert_eq!((config.databases.len(), config.users.len()), (databases, users), "{name}");
    }
}

#[test]
fn every_variable_that_the_table_promises_is_read() {
    for key in keys() {
        let variable = key.variable.replacen("_NAME_", "_SHOP_", 1);
        let problems = load_with("", &[(&variable, "\u{1}")]).err();
        let said = problems.map(|problems| problems.to_string()).unwrap_or_default();

        assert!(!said.contains("unknown variable"), "{variable}: {said}");
    }
}

#[test]
fn the_readme_names_only_what_there_is() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let (mut variables, mut settings, mut files) = (0, 0, 0);
    for word in readme.split('`').skip(1).step_by(2) {
        let name = word.split([' ', '=', ':']).next().unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.starts_with("PGUSHER_") && name.chars().all(is_name) && name != "PGUSHER_" {
            variables += 1;
            let problems = load_with("", &[(name, "\u{1}")]).err();
            let said = problems.map(|problems| problems.to_string()).unwrap_or_default();
            assert!(!said.contains("unknown variable"), "{said}");
        }
        if let Some((section, key)) = name.split_once('.')
            && ["identity", "listen", "log", "metrics", "pool"].contains(&section)
        {
            settings += 1;
            assert!(keys().iter().any(|known| known.section == section && known.name == key), "{name}");
        }
        if ["config/", "deploy/", "docker/", "tests/"].iter().any(|folder| name.starts_with(folder)) {
            files += 1;
            assert!(root().join(name).exists(), "{name}");
        }
    }

    assert!(variables > 10 && settings > 20 && files > 3, "{variables} {settings} {files}");
}

/// The keys of `pgusher.toml`: lines `key = default`, active or commented, under a header, active or commented.
fn documented_keys() -> Vec<Documented> {
    let text = read("pgusher.toml");
    let mut keys = Vec::new();
    let mut section = String::new();
    let mut before = "";
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some(header) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = header.to_owned();
        } else if let Some((name, default)) = assignment(line).filter(|_| !section.is_empty()) {
            let has_sentence =
                before.starts_with("# ") && before.ends_with('.') && assignment(before).is_none();
            keys.push(Documented {
                section: section.clone(),
                name: name.into(),
                default: default.into(),
                has_sentence,
            });
        }
        before = line;
    }
    keys
}

/// `key = value`, if that is what a line is, commented or not.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let is_key = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_key.then_some((name, value))
}

/// `deploy/FRAMEWORKS.md` quotes the programs of `tests/drivers/identity`, which `e2e::drivers` runs; what nobody runs says so.
#[test]
fn every_snippet_for_a_framework_is_part_of_a_program_that_is_run() {
    let text = std::fs::read_to_string(root().join("deploy/FRAMEWORKS.md")).expect("the file is there");
    let mut quoted = BTreeSet::new();
    for (before, snippet) in
        text.split("```").collect::<Vec<_>>().chunks_exact(2).map(|pair| (pair[0], pair[1]))
    {
        let mark = before.trim_end().lines().last().unwrap_or_default();
        if mark == "<!-- not run -->" {
            continue;
        }
        let name = mark.strip_prefix("<!-- run: ").and_then(|rest| rest.strip_suffix(" -->"));
        let name = name.unwrap_or_else(|| panic!("neither run nor said not to be: {snippet}"));
        let program = std::fs::read_to_string(root().join("tests/drivers/identity").join(name)).expect(name);
        let program: Vec<_> = program.lines().map(str::trim).collect();
        let snippet: Vec<_> = snippet.lines().skip(1).map(str::trim).collect();
        assert!(program.windows(snippet.len()).any(|lines| lines == snippet), "not in {name}: {snippet:#?}");
        quoted.insert(name.to_owned());
    }

    let programs = std::fs::read_dir(root().join("tests/drivers/identity")).expect("the programs");
    let programs = programs.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let programs: BTreeSet<_> =
        programs.filter(|name| name.starts_with("with_") || name == "rust.rs").collect();
    assert_eq!(quoted, programs);
}

fn load(file: &str) -> Result<Config, Problems> {
    load_with(file, &[("PGUSHER_UPSTREAM", "postgres://app:secret@db/shop")])
}

fn load_with(file: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let flags = Flags { config: Some("pgusher.toml".into()), ..Flags::default() };
    Config::load(&flags, &surroundings(file.to_owned(), variables))
}

/// A place where the configuration is `file`, and every other file a password.
fn surroundings(file: String, variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        environment: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        read_file: Box::new(move |path: &Path| {
            let is_toml = path.extension().is_some_and(|extension| extension == "toml");
            Ok(if is_toml { file.clone().into_bytes() } else { b"secret\n".to_vec() })
        }),
    }
}

/// A file of `config/`.
fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("config").join(name)).expect("the file is in the repository")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
