//! The rules that the sources keep, read out of the sources: which layer may know which, how long a file may be, and what
//! must not be in it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the crate may name: itself, and what stands here. The order is that of the layers; nothing names
/// what comes after it.
const LAYERS: &[(&str, &[&str])] = &[
    // Leaves: they know nothing of the rest.
    ("expected", &[]),
    ("error", &["expected"]),
    ("text", &[]),
    ("task", &["error"]),
    ("units", &[]),
    ("planted", &[]),
    ("partitioner", &[]),
    ("record", &["error", "text"]),
    ("codec", &["error"]),
    ("event", &["error", "text", "record"]),
    // Under the feature `kafka`: what is known of Kafka, and nothing of the log.
    ("kafka", &["error", "text", "task", "units"]),
    // L0 to L2.
    ("storage", &[]),
    ("format", &["planted"]),
    ("segment", &["error", "planted", "storage", "format"]),
    // L3: they do not know each other.
    ("partition", &["error", "planted", "storage", "format", "segment"]),
    ("journal", &["error", "planted", "storage", "format", "segment"]),
    // L4: the open directory.
    ("log", &["error", "text", "planted", "record", "storage", "format", "segment", "partition", "journal"]),
    // L5: handles on a topic, and writing.
    ("topic", &["error", "codec", "partitioner", "record", "partition", "log"]),
    ("views", &["error", "storage"]),
    (
        "producer",
        &[
            "error",
            "planted",
            "expected",
            "codec",
            "partitioner",
            "record",
            "storage",
            "format",
            "segment",
            "partition",
            "log",
            "topic",
            "views",
        ],
    ),
    ("group", &["error", "text", "planted", "format", "segment", "partition", "log"]),
    // L6: reading.
    ("replay", &["error", "task", "codec", "record", "format", "segment", "partition", "log"]),
    (
        "consumer",
        &["error", "text", "task", "planted", "codec", "record", "segment", "partition", "log", "group", "replay"],
    ),
    (
        "transaction",
        &[
            "error",
            "planted",
            "codec",
            "record",
            "format",
            "partition",
            "log",
            "topic",
            "producer",
            "group",
            "consumer",
        ],
    ),
    ("find", &["error", "text", "codec", "record", "format", "segment", "partition", "log", "views", "replay"]),
    (
        "sourcing",
        &[
            "error",
            "text",
            "task",
            "expected",
            "codec",
            "record",
            "segment",
            "partition",
            "log",
            "topic",
            "views",
            "producer",
            "replay",
            "consumer",
            "find",
        ],
    ),
    // L7: what a user opens.
    (
        "handle",
        &[
            "error",
            "task",
            "codec",
            "record",
            "storage",
            "partition",
            "log",
            "topic",
            "producer",
            "group",
            "replay",
            "consumer",
            "transaction",
            "find",
            "sourcing",
        ],
    ),
    // On top of it: the event bus.
    (
        "bus",
        &[
            "error",
            "text",
            "task",
            "units",
            "codec",
            "partitioner",
            "record",
            "event",
            "kafka",
            "storage",
            "segment",
            "log",
            "topic",
            "producer",
            "group",
            "replay",
            "consumer",
            "transaction",
            "handle",
        ],
    ),
    // Under the feature `kafka`: the mirror and the way back, on the public interface alone, patterns and partitioner apart.
    (
        "mirror",
        &[
            "error",
            "text",
            "task",
            "units",
            "codec",
            "partitioner",
            "record",
            "kafka",
            "log",
            "topic",
            "group",
            "replay",
            "consumer",
            "transaction",
            "handle",
        ],
    ),
    // Beside it: the files themselves, checked, shown and repaired.
    ("inspect", &["error", "text", "record", "storage", "format", "segment", "log"]),
    // On top of all, under a feature of its own: what users test with.
    (
        "testing",
        &[
            "error", "text", "codec", "record", "storage", "segment", "log", "topic", "producer", "replay", "handle",
            "bus",
        ],
    ),
];

/// L8: programs. They are crates of their own, which know the public API only.
const PROGRAMS: &str = "bin";

/// The files that ask the machine for the time: one of the library, one of each program.
const CLOCK_FILES: [&str; 2] = ["storage/clock.rs", "bin/annals/clock.rs"];

/// Where a layer is entered from above: of the journal and the partitions, the log alone.
const PRIVATE: &[(&str, &[&str])] = &[("journal", &["log"]), ("views", &["producer", "find", "sourcing"])];

/// What stands beside the layers, for tests and measurements only, and may know them all. None of them names it.
const BESIDE: &[&str] = &["sim", "fuzzing", "bench"];

/// Longer files that are to be taken apart, and what they must not outgrow until then.
const LONG: &[(&str, usize)] = &[];
const LINES_MAX: usize = 500;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file that is no test, by its path below `src/`.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![src()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let beside = path.parent() == Some(&src()) && BESIDE.contains(&stem);
            if stem == "tests" || beside {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(src()).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 40, "the sources are there");
    found
}

/// The text without its unit tests, comments and documentation.
fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => &text[..tests],
        None => text,
    };
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The modules that a text names: `crate::x`, and each of `crate::{x, y}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::`, and a name that merely ends so, are not ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 1;
                let end = list.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth == 0
                });
                top_level(&list[..end.unwrap()])
            }
            None => vec![rest],
        };
        for path in list {
            let name: String = path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

/// The parts between the commas that are in no inner braces.
fn top_level(list: &str) -> Vec<&str> {
    let mut depth = 0;
    list.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    })
    .filter(|part| !part.trim().is_empty())
    .collect()
}

#[test]
fn arrows_point_down_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module_of(&file);
        if module == "lib" || module == PROGRAMS {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{file}: the module `{module}` has no layer; give it one in this test"));
            continue;
        };
        for name in named(&code(&text)) {
            let inside = name == module || allowed.contains(&name.as_str());
            let entered = PRIVATE.iter().all(|(of, by)| *of != name || *of == module || by.contains(&module));
            if !inside || !entered {
                wrong.push(format!("{file}: `{module}` must not know `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The table says no more than the sources need, or it would let arrows in unseen.
#[test]
fn the_table_allows_what_is_used_and_stands_in_order() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources() {
        used.entry(module_of(&file).to_owned()).or_default().extend(named(&code(&text)));
    }
    for (at, (module, allowed)) in LAYERS.iter().enumerate() {
        let used = used.get(*module).unwrap_or_else(|| panic!("there is no module `{module}` any more"));
        for name in *allowed {
            assert!(LAYERS[..at].iter().any(|(below, _)| below == name), "`{name}` is not below `{module}`");
            assert!(used.contains(*name), "`{module}` does not need `{name}` any more: take it out of the table");
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        match LONG.iter().find(|(name, _)| *name == file) {
            Some((_, max)) => {
                assert!(lines <= *max, "{file} has {lines} lines and was to become shorter than {max}");
                assert!(lines > LINES_MAX, "{file} is short enough by now: take it out of the list");
            }
            None => assert!(lines <= LINES_MAX, "{file} has {lines} lines; {LINES_MAX} are allowed"),
        }
    }
}

#[test]
fn nothing_unfinished_and_no_time_of_its_own() {
    const UNFINISHED: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "println!("];
    const CLOCKS: [&str; 3] = ["SystemTime::now", "Instant::now", "Utc::now"];
    for (file, text) in sources() {
        let code = code(&text);
        for word in UNFINISHED {
            assert!(!code.contains(word), "{file} has `{word}`");
        }
        if !CLOCK_FILES.contains(&file.as_str()) {
            for word in CLOCKS {
                assert!(!code.contains(word), "{file} asks the machine for the time: `{word}`");
            }
        }
    }
}

/// What the compiler does not check is in one place, and short.
#[test]
fn the_only_unsafe_code_is_the_store_to_mapped_memory() {
    let counts = sources().into_iter().map(|(file, text)| {
        let count =
            code(&text).split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "unsafe").count();
        (file, count)
    });
    let counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [("storage/mapped.rs".to_owned(), 1)]);
}

#[test]
fn the_reader_of_the_sources_can_read() {
    let code =
        code("use crate::{a::{b, c}, d};\n//! crate::doc\nlet x = crate::e::f(); // crate::g\nmacro(my_crate::h)\n");
    assert_eq!(named(&code).iter().map(String::as_str).collect::<Vec<_>>(), ["a", "d", "e"]);
}
