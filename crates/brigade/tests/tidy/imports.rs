//! Which file imports which: modules point downwards, and no files of any crate import each other
//! in a circle.
//!
//! An import is whatever names an item of another file: a `use`, a path that begins with `crate`,
//! `super`, `self` or another crate of the workspace, and a path that begins with a child module. A
//! re-export leads to the file that defines the item, so that `super::Item` counts as an import of
//! the file that `Item` is in. `mod child;` alone is none.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{files, halves, name, packages, read, root, without_tests};
use crate::within;

/// Files that import each other in a circle.
const FILES_IN_CIRCLES: usize = 3;

/// A source file: what it defines, and what its names stand for.
struct File {
    /// The crate, then the modules down to this one.
    module: Vec<String>,
    path: String,
    code: String,
    /// What `use` brings in, by absolute paths.
    names: Vec<Import>,
}

/// One name of a `use` declaration.
#[derive(Clone, Debug, PartialEq)]
struct Import {
    /// `*` for a glob.
    name: String,
    path: Vec<String>,
    /// `pub use`: others see it, so it may be a re-export alone.
    is_export: bool,
}

/// The module of a file: `crates/brigade-redis/src/a/b.rs` is `brigade_redis::a::b`.
fn module_of(path: &str) -> Option<Vec<String>> {
    let (package, inside) = path.strip_prefix("crates/")?.split_once("/src/")?;
    let inside = inside.strip_suffix(".rs")?;
    let parts = inside
        .split('/')
        .filter(|part| !matches!(*part, "lib" | "main"));
    Some(
        std::iter::once(package.replace('-', "_"))
            .chain(parts.map(str::to_owned))
            .collect(),
    )
}

/// `a::{b, c::d as e}` as its paths, each with the name that it brings in.
fn leaves(tree: &str, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some(open) = tree.find('{') {
        let path = [before, &parts(&tree[..open])].concat();
        let inner = tree[open + 1..]
            .trim_end()
            .strip_suffix('}')
            .unwrap_or(&tree[open + 1..]);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                leaves(&inner[start..at], &path, found);
                start = at + 1;
            }
        }
        leaves(&inner[start..], &path, found);
        return;
    }
    if tree.is_empty() {
        return;
    }
    let (path, alias) = tree
        .split_once(" as ")
        .map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path = [before, &parts(path)].concat();
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let last = path.last().cloned().unwrap_or_default();
    found.push((alias.map_or(last, str::to_owned), path));
}

fn parts(path: &str) -> Vec<String> {
    path.split("::")
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The `use` declarations of this code, and the rest of it.
fn uses(code: &str) -> (Vec<Import>, String) {
    let (mut found, mut rest, mut done) = (Vec::new(), String::new(), 0);
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].trim_end_matches(' ');
        let visible = before
            .strip_suffix(')')
            .and_then(|before| Some(&before[..before.rfind('(')?]))
            .unwrap_or(before);
        let (is_export, visible) = visible
            .strip_suffix("pub")
            .map_or((false, before), |before| {
                (true, before.trim_end_matches(' '))
            });
        if !visible.is_empty() && !visible.ends_with(['\n', ';', '{', '}', ']']) {
            continue;
        }
        let end = code[at..].find(';').map_or(code.len(), |end| at + end);
        rest.push_str(&code[done..at]);
        done = end;
        let mut paths = Vec::new();
        leaves(&code[at + 4..end].replace('\n', " "), &[], &mut paths);
        found.extend(paths.into_iter().map(|(name, path)| Import {
            name,
            path,
            is_export,
        }));
    }
    rest.push_str(&code[done..]);
    (found, rest)
}

/// Paths in this code that do not stand in a `use`, from their first segment on.
fn paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c| !is_word(c))
        .filter(|word| word.contains("::") && !word.starts_with(':'))
        .map(parts)
        .filter(|path| path.len() > 1)
        .collect()
}

struct Sources {
    files: Vec<File>,
    /// Modules, with the index of the file of each.
    modules: BTreeMap<Vec<String>, usize>,
}

impl Sources {
    fn read() -> Self {
        let mut files_of = Vec::new();
        for package in packages() {
            for path in files(&root().join("crates").join(package).join("src"), ".rs") {
                let inside = name(&path);
                if inside.ends_with("/tests.rs") || inside.contains("/tests/") {
                    continue;
                }
                let code = without_tests(&halves(&read(&path)).code);
                files_of.push(File {
                    module: module_of(&inside).expect("a source has a module"),
                    path: inside,
                    names: Vec::new(),
                    code,
                });
            }
        }
        let modules = files_of
            .iter()
            .enumerate()
            .map(|(index, file)| (file.module.clone(), index))
            .collect();
        let mut sources = Self {
            files: files_of,
            modules,
        };
        for index in 0..sources.files.len() {
            let (found, rest) = uses(&sources.files[index].code);
            let absolute = |import: Import| {
                let path = sources.absolute(&sources.files[index].module, &import.path)?;
                Some(Import { path, ..import })
            };
            sources.files[index].names = found.into_iter().filter_map(absolute).collect();
            sources.files[index].code = rest;
        }
        sources
    }

    /// A path as it is from everywhere; `None` for one out of the workspace.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let joined = |base: &[String]| [base, rest].concat();
        match first.as_str() {
            "crate" => Some(joined(&module[..1])),
            "self" => self.absolute(module, rest).or_else(|| Some(joined(module))),
            "super" => {
                let mut base = module[..module.len().checked_sub(1)?].to_vec();
                let mut rest = rest;
                while let Some((next, after)) =
                    rest.split_first().filter(|(next, _)| *next == "super")
                {
                    debug_assert_eq!(next, "super");
                    base.pop();
                    rest = after;
                }
                Some([base.as_slice(), rest].concat())
            }
            first if self.modules.contains_key([first.to_owned()].as_slice()) => {
                Some(path.to_vec())
            }
            _ => {
                let child = [module, &path[..1]].concat();
                self.modules
                    .contains_key(&child)
                    .then(|| [module, path].concat())
            }
        }
    }

    /// The file that defines what an absolute path names.
    fn defines(&self, path: &[String], hops: usize) -> Option<usize> {
        let length = (1..=path.len())
            .rev()
            .find(|length| self.modules.contains_key(&path[..*length]))?;
        let index = self.modules[&path[..length]];
        let Some(item) = path.get(length).filter(|_| hops < 8) else {
            return Some(index);
        };
        let file = &self.files[index];
        let rest = &path[length + 1..];
        // A function may have the name of a module that is imported.
        let module = file
            .names
            .iter()
            .find(|import| import.name == *item && !rest.is_empty());
        if let Some(import) = module {
            return self.defines(&[&import.path, rest].concat(), hops + 1);
        }
        let defined = |kind: &str| {
            let definition = format!("{kind} {item}");
            file.code.match_indices(&definition).any(|(at, found)| {
                !file.code[at + found.len()..]
                    .starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
        };
        if [
            "struct",
            "enum",
            "trait",
            "type",
            "fn",
            "const",
            "static",
            "mod",
            "macro_rules!",
        ]
        .iter()
        .any(|kind| defined(kind))
        {
            return Some(index);
        }
        let (exact, globs): (Vec<&Import>, Vec<&Import>) = file
            .names
            .iter()
            .filter(|import| import.name == *item || import.name == "*")
            .partition(|import| import.name == *item);
        if let Some(import) = exact.first() {
            return self.defines(&[&import.path, rest].concat(), hops + 1);
        }
        for import in globs {
            let target = [&import.path[..import.path.len() - 1], &path[length..]].concat();
            let found = self.defines(&target, hops + 1);
            if let Some(found) = found.filter(|found| *found != index) {
                return Some(found);
            }
        }
        Some(index)
    }

    /// Which files each file imports.
    fn imports(&self) -> Vec<BTreeSet<usize>> {
        let mut all = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            let words: BTreeSet<&str> = file
                .code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            // What is only handed on is no import: a file that uses it imports the file behind it.
            let is_used =
                |import: &&Import| !import.is_export || words.contains(import.name.as_str());
            let named = file
                .names
                .iter()
                .filter(is_used)
                .map(|import| import.path.clone());
            let in_code = paths(&file.code).into_iter().filter_map(|path| {
                match file.names.iter().find(|import| import.name == path[0]) {
                    // The import itself is counted already, unless it is a module.
                    Some(import) => self
                        .modules
                        .contains_key(&import.path)
                        .then(|| [&import.path, &path[1..]].concat()),
                    None => self.absolute(&file.module, &path),
                }
            });
            // A module that is imported counts with what is used of it.
            let imported: BTreeSet<usize> = named
                .chain(in_code)
                .filter(|path| !self.modules.contains_key(path))
                .filter_map(|path| {
                    let path = if path.last().is_some_and(|last| last == "*") {
                        &path[..path.len() - 1]
                    } else {
                        &path
                    };
                    self.defines(path, 0)
                })
                .filter(|found| *found != index)
                .collect();
            all.push(imported);
        }
        all
    }
}

/// Everything that can be reached from a file.
fn reached(imports: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(next) = open.pop() {
        open.extend(imports[next].iter().filter(|file| found.insert(**file)));
    }
    found
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let sources = Sources::read();
    let imports = sources.imports();
    assert!(
        imports.iter().map(BTreeSet::len).sum::<usize>() > 500,
        "the imports are found"
    );
    let reached: Vec<_> = (0..imports.len())
        .map(|from| reached(&imports, from))
        .collect();
    let (mut seen, mut circles) = (BTreeSet::new(), Vec::new());
    let mut offenders = Vec::new();
    for from in 0..imports.len() {
        let circle: Vec<usize> = reached[from]
            .iter()
            .copied()
            .filter(|other| reached[*other].contains(&from))
            .collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        circles.push(circle.len());
        for file in &circle {
            let inner: Vec<&str> = imports[*file]
                .iter()
                .filter(|other| circle.contains(other))
                .map(|other| sources.files[*other].path.as_str())
                .collect();
            offenders.push(format!(
                "{}: {}",
                sources.files[*file].path,
                inner.join(" ")
            ));
        }
    }
    within(
        &format!("files that import each other in circles of {circles:?}"),
        FILES_IN_CIRCLES,
        &offenders,
    );
}

#[test]
fn imports_are_understood() {
    let code = "use crate::a::{B, c::{self, D as E}};\npub(crate) use super::F;\nimpl X { fn y() -> impl Z + use<'_> {} }";
    let (found, rest) = uses(code);
    assert!(rest.starts_with(';') && rest.contains("use<'_>"), "{rest}");
    let found: Vec<(String, String, bool)> = found
        .into_iter()
        .map(|import| (import.name, import.path.join("::"), import.is_export))
        .collect();
    let expected = [
        ("B", "crate::a::B", false),
        ("c", "crate::a::c", false),
        ("E", "crate::a::c::D", false),
        ("F", "super::F", true),
    ];
    let owned =
        |(name, path, is_export): (&str, &str, bool)| (name.to_owned(), path.to_owned(), is_export);
    assert_eq!(found, expected.map(owned));
}
