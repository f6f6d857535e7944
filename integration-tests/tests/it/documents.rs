//! Documents are checked against the contract, the tests and the files they name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the folder of the repository")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn contract() -> FileDescriptorSet {
    let mut files = FileDescriptorSet::decode(kernex_proto::DESCRIPTORS).expect("decodes");
    files.file.retain(|file| file.package() == "kernex.v1");
    assert!(!files.file.is_empty());
    files
}

/// The texts between two backticks of a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The documents whose links and paths have to be right today; decisions speak of their own time.
fn documents() -> Vec<PathBuf> {
    let root = root();
    let mut found = vec![
        root.join("README.md"),
        root.join("CONTRIBUTING.md"),
        root.join("SECURITY.md"),
        root.join("docs/decisions/README.md"),
    ];
    for entry in fs::read_dir(root.join("docs")).expect("docs") {
        let path = entry.expect("docs").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_table_of_services_names_each_service_and_its_file() {
    let mut served = BTreeSet::new();
    for file in &contract().file {
        let name = file.name().rsplit('/').next().expect("a name").to_owned();
        for service in &file.service {
            served.insert((service.name().to_owned(), name.clone()));
        }
    }
    let table: BTreeSet<_> = read("docs/integrators.md")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| {
            let mut names = quoted(line);
            Some((names.next()?.to_owned(), names.last()?.to_owned()))
        })
        .filter(|(service, _)| service.ends_with("Service"))
        .collect();
    assert_eq!(table, served);
}

/// Which section of the glossary explains which enum of the contract.
const EXPLAINED: &[(&str, &str)] = &[
    ("AttemptState", "Attempt"),
    ("AuditResult", "Access and trust"),
    ("AwayReason", "Device"),
    ("DeploymentResult", "Deployment"),
    ("DeploymentState", "Deployment"),
    ("DeviceConflict", "Device"),
    ("DeviceStatus", "Device"),
    ("DiskFault", "Device"),
    ("Disposition", "Disposition of a report"),
    ("FailureReason", "Failure reason"),
    ("HaltStanding", "Halt standing"),
    ("OnFailure", "Phase"),
    ("OutputStream", "Step"),
    ("PlanVerdict", "Plan verdict"),
    ("Role", "Access and trust"),
    ("RollbackVerdict", "Rollback verdict"),
    ("Step", "Step"),
    ("WaitReason", "Waiting"),
];

/// File formats are explained where bundles are.
const NO_STATE: &str = "BundleFormat";

#[test]
fn the_glossary_explains_every_state_reason_and_verdict_in_its_section() {
    let glossary = read("docs/glossary.md");
    for kind in contract().file.iter().flat_map(|file| &file.enum_type) {
        let name = kind.name();
        if name == NO_STATE {
            continue;
        }
        let (_, section) = EXPLAINED
            .iter()
            .find(|(explained, _)| *explained == name)
            .unwrap_or_else(|| panic!("{name}: which section of the glossary explains it?"));
        let words: BTreeSet<_> = glossary
            .split("\n## ")
            .find_map(|text| text.strip_prefix(&format!("{section}\n")))
            .unwrap_or_else(|| panic!("the glossary has no section \"{section}\""))
            .lines()
            .flat_map(quoted)
            .map(|word| word.replace(['-', ' '], "_").replace("input/output", "io"))
            .collect();
        let unspecified = kind.value.first().expect("a value").name();
        let prefix = unspecified.strip_suffix("UNSPECIFIED").expect("a prefix");
        for value in &kind.value[1..] {
            let word = value.name().strip_prefix(prefix).expect("the prefix");
            assert!(
                words.contains(&word.to_lowercase()),
                "\"{section}\" of the glossary lacks {}",
                value.name()
            );
        }
    }
}

/// Every source file of the crates.
fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn every_test_named_in_the_documents_exists() {
    let mut code = String::new();
    for (crate_, folder) in [
        ("proto", "src"),
        ("server", "src"),
        ("agent", "src"),
        ("agent", "tests"),
        ("cli", "src"),
        ("cli", "tests"),
        ("integration-tests", "src"),
        ("integration-tests", "tests"),
    ] {
        sources(&root().join(crate_).join(folder), &mut code);
    }
    let mut count = 0;
    let mut missing = Vec::new();
    for document in ["docs/guarantees.md", "docs/security.md"] {
        let text = read(document);
        // Names of tests are sentences; rules, settings and files are not.
        let is_test = |name: &&str| {
            name.split('_').count() > 4
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        for name in text.lines().flat_map(quoted).filter(is_test) {
            count += 1;
            if !code.contains(&format!("fn {name}(")) {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(count > 10, "only {count} names of tests were found");
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn files_and_pages_that_documents_name_exist() {
    let root = root();
    let folders = [
        "proto/",
        "server/",
        "agent/",
        "cli/",
        "migrations/",
        "integration-tests/",
        "docs/",
        "examples/",
        "deploy/",
        ".ci/",
    ];
    let mut missing = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        let here = document.parent().expect("a folder");
        let name = document
            .strip_prefix(&root)
            .expect("below the root")
            .display();
        for line in text.lines() {
            for path in quoted(line).filter(|path| folders.iter().any(|at| path.starts_with(at))) {
                let plain = path.split(['*', ' ', ':']).next().unwrap_or_default();
                // A placeholder such as `docs/decisions/NNNN-...` names no file.
                if !plain.contains("NNNN") && !root.join(plain).exists() {
                    missing.push(format!("{name}: `{path}`"));
                }
            }
            for link in line.split("](").skip(1) {
                let link = link.split([')', '#']).next().unwrap_or_default();
                if !link.is_empty() && !link.contains("://") && !here.join(link).exists() {
                    missing.push(format!("{name}: ({link})"));
                }
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn each_decision_has_a_status_a_date_and_a_line_in_the_index() {
    let index = read("docs/decisions/README.md");
    let mut count = 0;
    for entry in fs::read_dir(root().join("docs/decisions")).expect("decisions") {
        let name = entry.expect("decisions").file_name();
        let name = name.to_str().expect("a name");
        if name == "README.md" {
            continue;
        }
        let text = read(&format!("docs/decisions/{name}"));
        let mut lines = text.lines();
        let title = lines.next().expect("a title").trim_start_matches("# ");
        let head: Vec<_> = lines.take(4).collect();
        for field in ["Status: ", "Date: "] {
            assert!(
                head.iter().any(|line| line.starts_with(field)),
                "{name} has no line \"{field}\" below its title"
            );
        }
        let (number, _) = name.split_once('-').expect("a number");
        let line = format!("| {number} | [{title}]({name}) | ");
        assert!(index.contains(&line), "the index lacks {name}: {line}");
        count += 1;
    }
    assert!(count > 0);
}
