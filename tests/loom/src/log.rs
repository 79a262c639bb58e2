//! A log, as far as a group sees it: its topics, a clock that stands, and commits that never answer.

#[path = "../../../src/log/names.rs"]
pub(crate) mod names;

pub(crate) mod topic {
    use std::sync::Arc;

    use crate::partition::Partition;

    #[derive(Debug)]
    pub(crate) struct TopicState {
        pub(crate) name: Arc<str>,
        pub(crate) partitions: Vec<Arc<Partition>>,
    }

    impl TopicState {
        pub(crate) fn partitions(&self) -> &[Arc<Partition>] {
            &self.partitions
        }
    }
}

pub(crate) mod engine {
    use std::sync::Arc;
    use std::time::Duration;

    use super::topic::TopicState;

    pub(crate) struct Engine {
        pub(crate) topics: Vec<Arc<TopicState>>,
        pub(crate) upkeep: Upkeep,
        pub(crate) env: Env,
    }

    pub(crate) struct Upkeep;
    pub(crate) struct Env {
        pub(crate) clock: Clock,
    }
    pub(crate) struct Clock;

    impl Engine {
        pub(crate) fn topics(&self) -> Vec<Arc<TopicState>> {
            self.topics.clone()
        }
    }

    impl Upkeep {
        pub(crate) fn want_call(&self, _until: Duration) {}
    }

    impl Clock {
        pub(crate) fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }
}

pub(crate) mod committer {
    use crate::error::Result;

    #[derive(Debug)]
    pub(crate) struct Group;

    impl Group {
        pub(crate) fn outcome(&self) -> Option<&Result<()>> {
            None
        }
    }
}
