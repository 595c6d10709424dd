//! What people copy: `deploy/` and `docker/`, held against the schemas of Kubernetes, against each other, and against the code.
//!
//! `tests/deploy/validate.py` reads the YAML; what it finds of ours (configurations, variables, arguments) is judged here. No
//! cluster and no Docker is needed, nor proven: what an image does when it runs is not seen by these tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgusher::cli::{self, Flags};
use pgusher::config::{Config, Surroundings};

#[test]
fn the_manifests_are_valid_and_what_is_in_them_is_accepted() {
    let found = tempfile::tempdir().unwrap();

    let output = validate(root(), found.path());

    assert!(output.status.success(), "{}", said(&output));
    let names = names(found.path());
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let part =
            |extension: &str| fs::read_to_string(found.path().join(format!("{name}.{extension}"))).unwrap();
        assert_config(&name, &part("toml"), &part("env"));
        let written = part("args");
        let arguments = cli::parse(["pgusher"].into_iter().chain(written.lines()).map(OsString::from));
        assert!(arguments.is_ok(), "{name}: {arguments:?}");
    }
}

/// A file below `deploy`, a text in it, what it is replaced by, and what is said about that.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const SIDECAR: &str = "kubernetes/sidecar/deployment.yaml";
const CONTAINER: &str = "kubernetes/container/deployment.yaml";
const COMPOSE: &str = "../docker/compose.yaml";

/// Each row is made at once: reading the schemas takes seconds.
const MISTAKES: [&[Mistake]; 2] = [
    &[
        (SIDECAR, "replicas: 4", "replicas: four", "spec.replicas"),
        (SIDECAR, "restartPolicy: Always", "restartPolicy: Sometimes", "a native sidecar"),
        (CONTAINER, "GracePeriodSeconds: 60", "GracePeriodSeconds: 40", "longer than the grace"),
        (CONTAINER, "exec: {command: [\"sleep\", \"5\"]}", "sleep: {seconds: 5}", "1.28"),
        ("kubernetes/socket/deployment.yaml", "path: /readyz", "path: /ready", "probes:"),
        ("kubernetes/base/configmap.yaml", "postgres/saas_user", "postgres/somebody", "not mounted"),
        ("kubernetes/base/podmonitor.yaml", "port: pgusher-metrics", "port: metrics", "no port metrics"),
        (COMPOSE, "cap_drop: [ALL]", "cap_drop: ALL", "cap_drop"),
        (
            "../docker/grafana/dashboards.yaml",
            "lib/grafana/dashboards",
            "lib/dashboards",
            "where Grafana looks",
        ),
        ("../docker/prometheus.yaml", "pgusher:9930", "pgusher:9931", "Prometheus scrapes"),
        ("../docker/Dockerfile", "--from=build", "--from=builder", "no such stage"),
    ],
    &[
        (CONTAINER, "value: 20s", "value: 1s", "drain_grace"),
        (SIDECAR, "GracePeriodSeconds: 60", "GracePeriodSeconds: 30", "longer than the grace"),
        (COMPOSE, "stop_grace_period: 30s", "stop_grace_period: 20s", "killed"),
    ],
];

/// The validator, and the test above, can fail.
#[test]
fn what_is_wrong_with_a_manifest_is_found() {
    for mistakes in MISTAKES {
        let (copy, found) = (copied(), tempfile::tempdir().unwrap());
        for (file, from, to, _) in mistakes {
            let path = copy.path().join("deploy").join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file}: {from}");
            fs::write(&path, text.replace(from, to)).unwrap();
        }

        let output = validate(copy.path(), found.path());

        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        for (file, _, to, expected) in mistakes {
            assert!(said(&output).contains(expected), "{file}: {to}: {}", said(&output));
        }
    }
}

/// The image is built of what the Dockerfile copies, of what the ignore file lets through: a manifest that names something else
/// could not even be read, nor a file that sources include.
#[test]
fn the_dockerfile_copies_all_that_the_build_wants() {
    let folder = tempfile::tempdir().unwrap();
    let dockerfile = fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    let ignored = fs::read_to_string(root().join("docker/Dockerfile.dockerignore")).unwrap();
    let let_through: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copies = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--"));
    for name in copies.flat_map(|line| line.split(' ').rev().skip(1)) {
        assert!(let_through.contains(&name), "{name} is ignored");
        let copied = folder.path().join(name);
        fs::create_dir_all(copied.parent().unwrap()).unwrap();
        symlink(root().join(name), copied).unwrap();
    }

    for included in included_by(&root().join("src")) {
        let name = included.strip_prefix(root()).unwrap();
        assert!(folder.path().join(name).exists(), "{} is not copied", name.display());
    }
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(folder.path().join("Cargo.toml"))
        .output()
        .unwrap();

    assert!(metadata.status.success(), "{}", said(&metadata));
    assert!(said(&metadata).contains("\"name\":\"pgusher\""));
}

/// The image has the C library and what compilers add to it, and nothing else.
#[test]
fn the_program_wants_no_library_that_the_image_lacks() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_pgusher")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));

    let said = said(&output);
    let wanted: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();

    assert!(wanted.contains(&"libc.so.6"), "{wanted:?}");
    for library in wanted {
        let known =
            ["linux-vdso.so.1", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert!(known.contains(&library), "{library}");
    }
}

/// The files that sources of a folder include.
fn included_by(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(included_by(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for macro_name in ["include_str!(\"", "include_bytes!(\"", "include!(\""] {
            let names = text.split(macro_name).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(|name| folder.join(name).canonicalize().unwrap()));
        }
    }
    found
}

#[test]
fn kustomize_builds_every_variant() {
    // No registry that `tests/setup.sh` uses has one that is new enough: elsewhere `validate.py` alone reads the kustomizations.
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return;
    }
    for folder in
        ["deploy", "deploy/kubernetes/sidecar", "deploy/kubernetes/container", "deploy/kubernetes/socket"]
    {
        let built = Command::new("kubectl").arg("kustomize").arg(root().join(folder)).output().unwrap();

        assert!(built.status.success(), "{folder}: {}", said(&built));
        for kind in ["kind: ConfigMap", "kind: Deployment", "kind: PodMonitor"] {
            assert!(said(&built).contains(kind), "{folder}: {kind}");
        }
    }
}

/// With the program of this build in place of the installed one: systemd looks whether it is there.
#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("pgusher.service");
    let text = fs::read_to_string(root().join("deploy/pgusher.service")).unwrap();
    fs::write(&unit, text.replace("/usr/local/bin/pgusher", env!("CARGO_BIN_EXE_pgusher"))).unwrap();

    let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let exposed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&unit)
        .output()
        .unwrap();

    assert!(verified.status.success(), "{}", said(&verified));
    assert!(!said(&verified).contains("pgusher.service"), "{}", said(&verified));
    assert!(exposed.status.success(), "{}", said(&exposed));
}

#[test]
fn prometheus_understands_its_configuration() {
    // The alerts as they are mounted.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yaml");
    let text = fs::read_to_string(root().join("docker/prometheus.yaml")).unwrap();
    let alerts = root().join("deploy/alerts.yaml");
    fs::write(&file, text.replace("/etc/prometheus/alerts.yaml", &alerts.display().to_string())).unwrap();

    let checked = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();

    assert!(checked.status.success(), "{}", said(&checked));
    assert!(said(&checked).contains("1 rule files found"), "{}", said(&checked));
}

fn assert_config(name: &str, toml: &str, variables: &str) {
    let toml = toml.to_owned();
    let surroundings = Surroundings {
        environment: variables
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        read_file: Box::new(move |path: &Path| {
            let is_toml = path.extension().is_some_and(|extension| extension == "toml");
            Ok(if is_toml { toml.clone().into_bytes() } else { b"secret\n".to_vec() })
        }),
    };
    if let Err(problems) = Config::load(&Flags::default(), &surroundings) {
        panic!("{name}:\n{problems}");
    }
}

fn validate(root: &Path, found: &Path) -> Output {
    let python = tools().join("deploy/bin/python");
    assert!(python.exists(), "{} is missing: run tests/setup.sh", python.display());
    Command::new(python)
        .arg(self::root().join("tests/deploy/validate.py"))
        .arg(root)
        .arg(found)
        .output()
        .unwrap()
}

/// The repository, `deploy` and `docker` being copies.
fn copied() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if name == "deploy" || name == "docker" {
            copy(&path, &folder.path().join(&name));
        } else {
            symlink(&path, folder.path().join(&name)).unwrap();
        }
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The configurations that were found.
fn names(found: &Path) -> Vec<String> {
    let names = fs::read_dir(found).unwrap().map(|entry| entry.unwrap().path());
    let names = names.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    names.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Where `tests/setup.sh` puts what the machine lacks.
fn tools() -> PathBuf {
    std::env::var_os("TOOLS_DIR").map_or_else(|| root().join(".tools"), PathBuf::from)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
