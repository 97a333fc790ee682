//! The modules of opb-userspace stand in the order in which data flows: each uses only modules
//! that `lib.rs` lists above it. So there are no circles between them, and a reader can go from
//! top to bottom. Tests are free to use anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use syn::{
    Attribute, File, Item, ItemMod, Meta, UseTree,
    visit::{self, Visit},
};

use crate::exec::root;

pub(crate) fn check() -> Result<()> {
    let crate_dir = root().join("opb-userspace/src");
    let modules: Vec<String> = parse(&crate_dir.join("lib.rs"))?
        .items
        .into_iter()
        .filter_map(|item| match item {
            Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        })
        .collect();

    let mut upward = BTreeSet::new();
    for (index, module) in modules.iter().enumerate() {
        let mut files = vec![crate_dir.join(format!("{module}.rs"))];
        if crate_dir.join(module).is_dir() {
            sources(&crate_dir.join(module), &mut files)?;
        }
        let tests = test_files(&files)?;
        for file in files.iter().filter(|file| file.exists() && !tests.contains(*file)) {
            let below = &modules[index + 1..];
            let used = used(&parse(file)?);
            let wrong = below.iter().filter(|name| used.contains(*name));
            let file = file.strip_prefix(root()).unwrap_or(file).display();
            upward.extend(wrong.map(|name| format!("{file} uses `{name}`")));
        }
    }
    ensure!(
        upward.is_empty(),
        "modules that use a module below them in lib.rs:\n  {}",
        upward.into_iter().collect::<Vec<_>>().join("\n  ")
    );
    Ok(())
}

/// Collects the `.rs` files below `directory`, without build output and hidden directories.
pub(crate) fn sources(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                sources(&path, into)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

fn parse(file: &Path) -> Result<File> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))
}

/// The files of modules that are only for tests.
fn test_files(files: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut tests = BTreeSet::new();
    for file in files.iter().filter(|file| file.exists()) {
        let directory = match file.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod") | None => file.with_file_name(""),
            Some(_) => file.with_extension(""),
        };
        for item in parse(file)?.items {
            if let Item::Mod(ItemMod { ident, attrs, content: None, .. }) = item
                && is_for_tests(&attrs)
            {
                tests.insert(directory.join(format!("{ident}.rs")));
            }
        }
    }
    Ok(tests)
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            ["test", "fuzzing"].contains(&list.tokens.to_string().as_str())
        }
        _ => false,
    })
}

/// The modules of the crate that a file names as `crate::NAME`.
fn used(file: &File) -> BTreeSet<String> {
    #[derive(Default)]
    struct Names(BTreeSet<String>);

    impl Names {
        fn add(&mut self, tree: &UseTree) {
            match tree {
                UseTree::Path(path) => drop(self.0.insert(path.ident.to_string())),
                UseTree::Name(name) => drop(self.0.insert(name.ident.to_string())),
                UseTree::Rename(name) => drop(self.0.insert(name.ident.to_string())),
                UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree)),
                UseTree::Glob(_) => {}
            }
        }
    }

    impl<'a> Visit<'a> for Names {
        fn visit_item_mod(&mut self, module: &'a ItemMod) {
            if !is_for_tests(&module.attrs) {
                visit::visit_item_mod(self, module);
            }
        }

        fn visit_use_tree(&mut self, tree: &'a UseTree) {
            if let UseTree::Path(path) = tree
                && path.ident == "crate"
            {
                self.add(&path.tree);
            }
        }

        fn visit_path(&mut self, path: &'a syn::Path) {
            if path.segments.first().is_some_and(|first| first.ident == "crate")
                && let Some(second) = path.segments.iter().nth(1)
            {
                self.0.insert(second.ident.to_string());
            }
            visit::visit_path(self, path);
        }
    }

    let mut names = Names::default();
    names.visit_file(file);
    names.0
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn paths_and_groups_count_and_tests_do_not() {
        let file = syn::parse_file(
            "use crate::{a::{A, B}, b, text as c};\n\
             use std::fs;\n\
             fn f() -> crate::d::D { crate::e::f() }\n\
             #[cfg(test)]\nmod tests { use crate::z; }",
        );
        let used = used(&file.expect("it is Rust"));
        assert_eq!(used.into_iter().collect::<Vec<_>>(), ["a", "b", "d", "e", "text"]);
    }
}
