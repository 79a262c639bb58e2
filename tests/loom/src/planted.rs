//! The switches of deliberate defects that the sources compiled here ask for.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    FenceIgnored,
    UnfinishedPassed,
}

thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Switches `bug` on for this thread. All threads of a model are run by the one that explores it.
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
