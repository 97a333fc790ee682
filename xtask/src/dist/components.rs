//! The list of components (software bill of materials) in the format CycloneDX 1.5, from what cargo resolves:
//! cargo-cyclonedx would take minutes to compile, for a file that is a rewrite of `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Source, output};
use crate::exec::cargo;

/// The packages that are in the program: itself, and the BPF programs that it embeds.
const ROOTS: [&str; 2] = ["opb-userspace", "opb-ebpf"];

pub(super) fn list(source: &Source) -> Result<String> {
    let mut cmd = cargo("metadata");
    cmd.args(["--format-version=1", "--locked", "--filter-platform"]);
    cmd.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).current_dir(&source.root);
    let metadata: Value = serde_json::from_str(&output(&mut cmd)?)?;
    let lock = fs::read_to_string(source.root.join("Cargo.lock"))?;
    let list = describe(&metadata, &checksums(&lock), &source.version)?;
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn describe(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    version: &str,
) -> Result<Value> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = |id: &str| packages.iter().find(|package| package["id"] == id);
    let edges = edges(metadata)?;
    let names = packages.iter().filter(|it| ROOTS.iter().any(|root| it["name"] == *root));
    let mut pending: Vec<&str> = names.filter_map(|it| it["id"].as_str()).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = pending.pop() {
        if reached.insert(id) {
            pending.extend(edges.get(id).into_iter().flatten());
        }
    }
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in reached {
        let package = package(id).with_context(|| format!("no package {id}"))?;
        let url = url(package)?;
        let needs = edges.get(id).into_iter().flatten();
        let needs: BTreeSet<String> = needs
            .filter_map(|id| self::url(packages.iter().find(|it| it["id"] == **id)?).ok())
            .collect();
        dependencies.insert(url.clone(), json!({ "ref": url, "dependsOn": needs }));
        components.insert(url.clone(), component(package, &url, checksums)?);
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": "opb", "name": "opb", "version": version,
        } },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

/// What each package needs to run.
fn edges(metadata: &Value) -> Result<BTreeMap<&str, Vec<&str>>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("nothing is resolved")?;
    let mut edges = BTreeMap::new();
    for node in nodes {
        let id = node["id"].as_str().context("a node without an id")?;
        let needs = node["deps"].as_array().into_iter().flatten();
        // `null` for normal dependencies; else `build` or `dev`.
        let is_normal = |needs: &&Value| {
            let kinds = needs["dep_kinds"].as_array().into_iter().flatten();
            kinds.into_iter().any(|kind| kind["kind"].is_null())
        };
        let needs = needs.filter(is_normal).filter_map(|needs| needs["pkg"].as_str());
        edges.insert(id, needs.collect());
    }
    Ok(edges)
}

fn url(package: &Value) -> Result<String> {
    let text =
        |key: &str| package[key].as_str().with_context(|| format!("a package without {key}"));
    Ok(format!("pkg:cargo/{}@{}", text("name")?, text("version")?))
}

fn component(
    package: &Value,
    url: &str,
    checksums: &BTreeMap<(String, String), String>,
) -> Result<Value> {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let mut component = json!({
        "type": "library", "bom-ref": url, "name": text("name"), "version": text("version"),
    });
    let fields = component.as_object_mut().context("not an object")?;
    if let Some(license) = package["license"].as_str() {
        // Old manifests have `/` for `OR`.
        let license = license.replace('/', " OR ");
        fields.insert("licenses".into(), json!([{ "expression": license }]));
    }
    if let Some(sum) = checksums.get(&(text("name"), text("version"))) {
        fields.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": sum }]));
        fields.insert("purl".into(), url.into());
    }
    Ok(component)
}

/// The sums of the packages in a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        Some(line?.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1);
    let sum = |block: &str| {
        Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))
    };
    blocks.filter_map(sum).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_in_the_program() {
        let package = |name: &str| json!({ "id": name, "name": name, "version": "1.0.0" });
        let needs =
            |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("opb-userspace"), package("inside"), package("below"),
                         package("builds"), package("tests")],
            "resolve": { "nodes": [
                { "id": "opb-userspace", "deps": [needs("inside", Value::Null),
                    needs("builds", "build".into()), needs("tests", "dev".into())] },
                { "id": "inside", "deps": [needs("below", Value::Null)] },
                { "id": "below", "deps": [] }, { "id": "builds", "deps": [] },
                { "id": "tests", "deps": [] },
            ] },
        });
        let lock = "[[package]]\nname = \"below\"\nversion = \"1.0.0\"\nchecksum = \"00ff\"\n";
        let list = describe(&metadata, &checksums(lock), "1.0.0").expect("a list");
        let components = list["components"].as_array().expect("a list");
        let names: Vec<_> = components.iter().map(|it| it["name"].as_str()).collect();
        assert_eq!(names, [Some("below"), Some("inside"), Some("opb-userspace")]);
        assert_eq!(components[0]["hashes"][0]["content"], "00ff");
        assert_eq!(list["dependencies"][1]["dependsOn"], json!(["pkg:cargo/below@1.0.0"]));
    }
}
