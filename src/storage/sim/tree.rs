//! The names of the simulated disk: directories in their two images, and the changes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::super::memory::{failed, names};
use super::super::{Entry, EntryKind};
use super::content::{Content, Fate};
use super::dice::{Dice, Hash};

/// What a file or directory is, whatever its names are; never used twice.
pub(super) type Id = u64;

pub(super) const ROOT: Id = 0;

#[derive(Debug, Clone, Default)]
struct Dir {
    live: BTreeMap<String, Id>,
    durable: BTreeMap<String, Id>,
}

#[derive(Debug, Clone)]
enum Kind {
    File(Content),
    Dir(Dir),
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    /// Has a name in the live image, and so takes up room that counts.
    linked: bool,
    /// Handles hold clones of this: a file that has lost its name is kept as long as there are any.
    handles: Arc<()>,
}

/// One name that comes to mean something else.
#[derive(Debug, Clone)]
struct Edit {
    dir: Id,
    name: String,
    before: Option<Id>,
    after: Option<Id>,
}

/// What one call changed, kept or lost as one: a rename edits two names.
type Change = Vec<Edit>;

#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Id, Node>,
    next: Id,
    /// Changes that are not durable, in order.
    pending: Vec<Change>,
    /// Files that lost their last name since the last sweep.
    unlinked: u64,
    /// Live pages of files that have a name.
    allocated: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), next: ROOT, pending: Vec::new(), unlinked: 0, allocated: 0 };
        tree.add(Kind::Dir(Dir::default()));
        tree
    }

    /// A copy that no handle of the original reaches.
    pub(super) fn fork(&self) -> Self {
        let node = |(id, node): (&Id, &Node)| {
            (*id, Node { kind: node.kind.clone(), linked: node.linked, handles: Arc::default() })
        };
        Self { nodes: self.nodes.iter().map(node).collect(), pending: self.pending.clone(), ..*self }
    }

    pub(super) fn allocated(&self) -> usize {
        self.allocated
    }

    /// How many files and directories are kept, named or not.
    pub(super) fn size(&self) -> usize {
        self.nodes.len()
    }

    fn add(&mut self, kind: Kind) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node { kind, linked: true, handles: Arc::default() });
        id
    }

    fn dir(&self, id: Id) -> Option<&Dir> {
        match self.nodes.get(&id).map(|node| &node.kind) {
            Some(Kind::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    fn dir_mut(&mut self, id: Id) -> Option<&mut Dir> {
        match self.nodes.get_mut(&id).map(|node| &mut node.kind) {
            Some(Kind::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        self.dir(id).is_some()
    }

    pub(super) fn content(&self, id: Id) -> Option<&Content> {
        match self.nodes.get(&id).map(|node| &node.kind) {
            Some(Kind::File(content)) => Some(content),
            _ => None,
        }
    }

    /// Changes a file and keeps the count of its pages.
    pub(super) fn change<T>(&mut self, id: Id, change: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let Some(Node { kind: Kind::File(content), linked, .. }) = self.nodes.get_mut(&id) else {
            return Err(io::Error::new(ErrorKind::NotFound, "the file is gone"));
        };
        let before = content.allocated();
        let result = change(content);
        if *linked {
            self.allocated = self.allocated - before + content.allocated();
        }
        Ok(result)
    }

    pub(super) fn handle(&self, id: Id) -> Arc<()> {
        self.nodes.get(&id).map(|node| Arc::clone(&node.handles)).unwrap_or_default()
    }

    /// Finds what a path stands for in the live image.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<Id> {
        self.walk(path, &names(path)?)
    }

    fn walk(&self, path: &Path, names: &[&str]) -> io::Result<Id> {
        let mut id = ROOT;
        for name in names {
            let dir = self.dir(id).ok_or_else(|| failed(ErrorKind::NotADirectory, path))?;
            id = *dir.live.get(*name).ok_or_else(|| failed(ErrorKind::NotFound, path))?;
        }
        Ok(id)
    }

    /// The directory that holds the name of `path`, the name, and what it stands for; `at_root` is the error if the path is
    /// the root.
    fn locate<'p>(&self, path: &'p Path, at_root: ErrorKind) -> io::Result<(Id, &'p str, Option<Id>)> {
        let names = names(path)?;
        let (name, above) = names.split_last().ok_or_else(|| failed(at_root, path))?;
        let parent = self.walk(path, above)?;
        let dir = self.dir(parent).ok_or_else(|| failed(ErrorKind::NotADirectory, path))?;
        Ok((parent, name, dir.live.get(*name).copied()))
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let dir = self.dir(self.lookup(path)?).ok_or_else(|| failed(ErrorKind::NotADirectory, path))?;
        let entry = |(name, id): (&String, &Id)| Entry {
            name: name.clone(),
            kind: if self.is_dir(*id) { EntryKind::Dir } else { EntryKind::File },
        };
        Ok(dir.live.iter().map(entry).collect())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Id> {
        let (dir, name, there) = self.locate(path, ErrorKind::AlreadyExists)?;
        if there.is_some() {
            return Err(failed(ErrorKind::AlreadyExists, path));
        }
        let id = self.add(Kind::File(Content::default()));
        self.apply(vec![Edit { dir, name: name.to_owned(), before: None, after: Some(id) }]);
        Ok(id)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name, there) = self.locate(path, ErrorKind::AlreadyExists)?;
        if there.is_some() {
            return Err(failed(ErrorKind::AlreadyExists, path));
        }
        let id = self.add(Kind::Dir(Dir::default()));
        self.apply(vec![Edit { dir, name: name.to_owned(), before: None, after: Some(id) }]);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path, want_dir: bool) -> io::Result<()> {
        let at_root = if want_dir { ErrorKind::InvalidInput } else { ErrorKind::IsADirectory };
        let (dir, name, there) = self.locate(path, at_root)?;
        let id = there.ok_or_else(|| failed(ErrorKind::NotFound, path))?;
        match (want_dir, self.dir(id)) {
            (true, None) => return Err(failed(ErrorKind::NotADirectory, path)),
            (true, Some(found)) if !found.live.is_empty() => return Err(failed(ErrorKind::DirectoryNotEmpty, path)),
            (false, Some(_)) => return Err(failed(ErrorKind::IsADirectory, path)),
            _ => {}
        }
        self.apply(vec![Edit { dir, name: name.to_owned(), before: Some(id), after: None }]);
        self.unlink(id);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (source_names, target_names) = (names(from)?, names(to)?);
        let (source_dir, source, id) = self.locate(from, ErrorKind::InvalidInput)?;
        let id = id.ok_or_else(|| failed(ErrorKind::NotFound, from))?;
        if source_names == target_names {
            return Ok(());
        }
        let is_dir = self.is_dir(id);
        if is_dir && target_names.starts_with(&source_names) {
            return Err(failed(ErrorKind::InvalidInput, to));
        }
        let (target_dir, target, replaced) = self.locate(to, ErrorKind::InvalidInput)?;
        match (is_dir, replaced.map(|there| self.dir(there))) {
            (true, Some(None)) => return Err(failed(ErrorKind::NotADirectory, to)),
            (true, Some(Some(there))) if !there.live.is_empty() => {
                return Err(failed(ErrorKind::DirectoryNotEmpty, to));
            }
            (false, Some(Some(_))) => return Err(failed(ErrorKind::IsADirectory, to)),
            _ => {}
        }
        self.apply(vec![
            Edit { dir: source_dir, name: source.to_owned(), before: Some(id), after: None },
            Edit { dir: target_dir, name: target.to_owned(), before: replaced, after: Some(id) },
        ]);
        if let Some(replaced) = replaced {
            self.unlink(replaced);
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        for edit in &change {
            if let Some(dir) = self.dir_mut(edit.dir) {
                put(&mut dir.live, edit);
            }
        }
        self.pending.push(change);
    }

    fn unlink(&mut self, id: Id) {
        self.unlinked += 1;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.linked = false;
            if let Kind::File(content) = &node.kind {
                self.allocated -= content.allocated();
            }
        }
    }

    /// Makes the names of a directory durable, and of other directories what those depend on. `limit` is how many changes
    /// come that far, for a sync that the end of the machine cuts short.
    pub(super) fn sync_dir(&mut self, id: Id, limit: usize) {
        // From the last to the first, as a change needs those before it of the same names.
        let mut needed = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (change, chosen) in self.pending.iter().zip(&mut chosen).rev() {
            *chosen = change.iter().any(|edit| edit.dir == id || needed.contains(&(edit.dir, edit.name.as_str())));
            if *chosen {
                needed.extend(change.iter().map(|edit| (edit.dir, edit.name.as_str())));
            }
        }
        let mut left = limit;
        for (change, chosen) in std::mem::take(&mut self.pending).into_iter().zip(chosen) {
            if chosen && left > 0 {
                left -= 1;
                self.make_durable(&change);
            } else {
                self.pending.push(change);
            }
        }
        if self.unlinked >= 64 {
            self.sweep(true);
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    fn make_durable(&mut self, change: &Change) {
        for edit in change {
            if let Some(dir) = self.dir_mut(edit.dir) {
                put(&mut dir.durable, edit);
            }
        }
    }

    /// Whether the disk is in the state that the change was made to. One that builds on a lost one is lost with it.
    fn is_possible(&self, change: &Change) -> bool {
        change
            .iter()
            .all(|edit| self.dir(edit.dir).is_some_and(|dir| dir.durable.get(&edit.name) == edit.before.as_ref()))
    }

    pub(super) fn power_loss(&mut self, fate: Fate, dice: &Dice) {
        let pending = std::mem::take(&mut self.pending);
        let mut counts = BTreeMap::<Id, u64>::new();
        for change in &pending {
            *counts.entry(change[0].dir).or_default() += 1;
        }
        // For each directory: how many of its first changes are kept, or nothing if each is decided by itself.
        let kept: BTreeMap<Id, Option<u64>> = counts
            .into_iter()
            .map(|(dir, count)| match (fate, dice.below(4)) {
                (Fate::Oldest, _) | (Fate::Each, 0) => (dir, Some(0)),
                (Fate::Newest, _) => (dir, Some(count)),
                (Fate::Each, 1) => (dir, None),
                (Fate::Each, _) => (dir, Some(dice.below(count + 1))),
            })
            .collect();
        let mut seen = BTreeMap::<Id, u64>::new();
        for change in pending {
            let seen = seen.entry(change[0].dir).or_default();
            let keep = match kept.get(&change[0].dir) {
                Some(Some(first)) => *seen < *first,
                _ => dice.coin(),
            };
            *seen += 1;
            if keep && self.is_possible(&change) {
                self.make_durable(&change);
            }
        }
        for node in self.nodes.values_mut() {
            if let Kind::Dir(dir) = &mut node.kind {
                dir.live.clone_from(&dir.durable);
            }
        }
        self.sweep(false);
        self.allocated = 0;
        for node in self.nodes.values_mut() {
            node.linked = true;
            if let Kind::File(content) = &mut node.kind {
                content.power_loss(fate, dice);
                self.allocated += content.allocated();
            }
        }
    }

    /// The process is killed: all its handles are gone, and some pages that only the cache had.
    pub(super) fn kill(&mut self, dice: &Dice) {
        self.sweep(false);
        for node in self.nodes.values_mut() {
            if let Kind::File(content) = &mut node.kind {
                let before = content.allocated();
                content.evict(dice);
                if node.linked {
                    self.allocated = self.allocated - before + content.allocated();
                }
            }
        }
    }

    /// Forgets what no name leads to in either image, and, if `handles` count, no handle either.
    fn sweep(&mut self, handles: bool) {
        let mut reached = BTreeSet::new();
        let edited = |edit: &Edit| [Some(edit.dir), edit.before, edit.after];
        let mut todo: Vec<Id> = self.pending.iter().flatten().flat_map(edited).flatten().collect();
        todo.push(ROOT);
        if handles {
            todo.extend(self.nodes.iter().filter(|(_, node)| Arc::strong_count(&node.handles) > 1).map(|(id, _)| *id));
        }
        while let Some(id) = todo.pop() {
            if reached.insert(id)
                && let Some(dir) = self.dir(id)
            {
                todo.extend(dir.live.values().chain(dir.durable.values()));
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
        self.unlinked = 0;
    }

    /// The paths of all files in the live image, sorted.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.visit(ROOT, String::new(), |dir| &dir.live, &mut |path, id| {
            if !self.is_dir(id) {
                paths.push(path.to_owned());
            }
        });
        paths
    }

    fn visit<'t>(
        &'t self,
        dir: Id,
        path: String,
        image: fn(&'t Dir) -> &'t BTreeMap<String, Id>,
        see: &mut impl FnMut(&str, Id),
    ) {
        for (name, id) in self.dir(dir).map(image).into_iter().flatten() {
            let path = format!("{path}/{name}");
            see(&path, *id);
            self.visit(*id, path, image, see);
        }
    }

    /// Hashes every name and every byte that can be read.
    pub(super) fn hash_live(&self, hash: &mut Hash) {
        self.visit(ROOT, String::new(), |dir| &dir.live, &mut |path, id| {
            hash.bytes(path.as_bytes());
            if let Some(content) = self.content(id) {
                content.hash_live(hash);
            }
        });
    }

    /// Hashes every name and every byte that the disk holds, without what is only cached.
    pub(super) fn hash_durable(&self, hash: &mut Hash) {
        self.visit(ROOT, String::new(), |dir| &dir.durable, &mut |path, id| {
            hash.bytes(path.as_bytes());
            if let Some(content) = self.content(id) {
                content.hash_durable(hash);
            }
        });
    }

    /// Replaces or creates a file in both images, behind everybody's back.
    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let id = match self.lookup(path) {
            Ok(id) => id,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = self.create_file(path)?;
                // The name is as much at rest as the bytes; what its directory waits for stays pending.
                if let Some(change) = self.pending.pop() {
                    self.make_durable(&change);
                }
                id
            }
            Err(error) => return Err(error),
        };
        self.change(id, |content| *content = Content::settled(bytes))
    }
}

fn put(names: &mut BTreeMap<String, Id>, edit: &Edit) {
    match edit.after {
        Some(id) => names.insert(edit.name.clone(), id),
        None => names.remove(&edit.name),
    };
}
