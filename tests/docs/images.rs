//! The pictures of the pages: each exists, has a text for those who do not see it, and can be read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use roxmltree::{Document, Node};

use crate::known::root;

const SVG: &str = "http://www.w3.org/2000/svg";

/// All Markdown files that people read: those of the root, and below these directories.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut directories = vec![(root(), false)];
    directories.extend(["docs", "policies", "contrib"].map(|name| (root().join(name), true)));
    while let Some((directory, is_deep)) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() && is_deep {
                directories.push((path, true));
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// Text and path of each image in Markdown: `![text](path)`.
fn images(markdown: &str) -> impl Iterator<Item = (&str, &str)> {
    markdown.split("![").skip(1).filter_map(|rest| {
        let (text, rest) = rest.split_once("](")?;
        Some((text, rest.split_once(')')?.0))
    })
}

#[test]
fn every_image_of_a_page_exists_and_has_a_text() {
    let mut used = BTreeSet::new();
    for page in pages() {
        let markdown = fs::read_to_string(&page).expect("a page");
        let directory = page.parent().expect("a directory");
        for (text, path) in images(&markdown) {
            let image = directory.join(path);
            let size = fs::metadata(&image).map_or(0, |found| found.len());
            assert!(size > 100, "{} names {path}, which does not exist", page.display());
            assert!(text.len() >= 10, "{}: {path} has no text", page.display());
            used.insert(image.canonicalize().expect("it exists"));
        }
    }
    assert!(used.len() >= 10, "{used:?}");
}

#[test]
fn every_picture_is_well_formed_and_loads_nothing() {
    let mut drawn = 0;
    for entry in fs::read_dir(root().join("docs/images")).expect("a directory").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a picture");
        let picture = Document::parse(&text);
        let picture = picture.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let svg = picture.root_element();
        assert!(svg.has_tag_name((SVG, "svg")), "{}: {svg:?}", path.display());
        assert!(svg.has_attribute("viewBox"), "{} has no viewBox", path.display());
        loads_nothing(&path, &picture);
        // The plots of the benchmarks are made by a library, and their tables are in the page.
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bench-")) {
            is_accessible(&path, svg);
            drawn += 1;
        }
    }
    assert!(drawn >= 3, "{drawn} pictures drawn by hand");
}

/// No script, and no reference to anything outside of the file.
fn loads_nothing(path: &Path, picture: &Document<'_>) {
    for node in picture.descendants() {
        let name = node.tag_name().name();
        let foreign = ["script", "foreignObject", "image"];
        assert!(!foreign.contains(&name), "{} has <{name}>", path.display());
        let links = node.attributes().filter(|it| it.name() == "href");
        assert!(
            links.clone().all(|it| it.value().starts_with('#')),
            "{}: {node:?}",
            path.display()
        );
        for text in node.text().into_iter().chain(node.attributes().map(|it| it.value())) {
            let outside = text.contains("@import") || text.replace("url(#", "").contains("url(");
            assert!(!outside, "{} loads {text}", path.display());
        }
    }
}

/// Title and description for a screen reader, and colours for a dark page.
fn is_accessible(path: &Path, svg: Node<'_, '_>) {
    assert_eq!(svg.attribute("role"), Some("img"), "{}", path.display());
    let labels = svg.attribute("aria-labelledby").unwrap_or_default();
    let elements = ["title", "desc"].map(|name| {
        let found = svg.children().find(|node| node.has_tag_name((SVG, name)));
        found.unwrap_or_else(|| panic!("{} has no <{name}>", path.display()))
    });
    for element in elements {
        let id = element.attribute("id").unwrap_or_default();
        assert!(labels.split(' ').any(|label| label == id), "{}: {id} is no label", path.display());
        let text = element.text().unwrap_or_default().trim();
        assert!(text.len() >= 10, "{}: {element:?} says nothing", path.display());
    }
    let style = svg.children().filter_map(|node| node.text()).collect::<String>();
    assert!(style.contains("prefers-color-scheme: dark"), "{} has no dark colours", path.display());
}
