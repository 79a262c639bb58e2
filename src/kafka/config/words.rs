//! Settings that are one of a few words.

/// How many replicas have a record before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Acks {
    /// All that are in sync.
    All,
    /// The leader of the partition.
    Leader,
    /// None: it was sent.
    None,
}

impl Acks {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Leader => "1",
            Self::None => "0",
        }
    }
}

/// How batches of records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KafkaCompression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl KafkaCompression {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Whether connections are encrypted, and whether clients say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecurityProtocol {
    /// Neither.
    Plaintext,
    /// Encrypted; clients may have certificates.
    Ssl,
    /// Clients say who they are, with what they say in clear.
    SaslPlaintext,
    /// Encrypted, and clients say who they are.
    SaslSsl,
}

impl SecurityProtocol {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

/// How clients say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// A name and a password, as they are.
    Plain,
    /// A name, and the proof of knowing the password (SHA-256).
    ScramSha256,
    /// A name, and the proof of knowing the password (SHA-512).
    ScramSha512,
    /// A token.
    OAuthBearer,
}

impl SaslMechanism {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}
