//! How a transformer says that it failed, and in which of three ways. `?` makes any error transient.

use std::any::type_name;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// What kind of failure it is, and so what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// The record will never transform: it is poison at once.
    Permanent,
    /// It may succeed when tried again; each try uses up one of `ORCH_MAX_ATTEMPTS`.
    Transient,
    /// Something the transformer needs is down: the partition waits, and no attempt is used up.
    Infrastructure,
}

impl FailureClass {
    /// The name used in metrics, ledger rows and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Infrastructure => "infrastructure",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// In which step a record failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Its bytes could not be decoded.
    Decode,
    /// The transformer returned an error.
    Transform,
    /// The transformer panicked.
    Panic,
    /// `ORCH_TRANSFORM_TIMEOUT_MS` passed.
    Deadline,
    /// Its output could not be encoded.
    Encode,
    /// Its outputs were refused: too large, too many, or to a topic that does not exist.
    Output,
    /// The operator listed it in `ORCH_DEAD_LETTER_RECORDS`.
    Operator,
    /// It ended the process again and again (`ORCH_CRASH_QUARANTINE_AFTER`).
    Crash,
}

impl Stage {
    /// The name used in metrics, ledger rows and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Transform => "transform",
            Self::Panic => "panic",
            Self::Deadline => "deadline",
            Self::Encode => "encode",
            Self::Output => "output",
            Self::Operator => "operator",
            Self::Crash => "crash",
        }
    }
}

/// Why a record could not be transformed.
///
/// Any error converts by `?` and is then *transient*; [`ResultExt`] says otherwise:
///
/// ```
/// use orchestrator_core::{ResultExt, TransformError};
/// fn parse(text: &str) -> Result<u32, TransformError> {
///     let n: u32 = text.parse().permanent()?; // will never parse
///     if n == 0 {
///         return Err(TransformError::permanent("zero is not a quantity"));
///     }
///     Ok(n)
/// }
/// assert!(parse("x").is_err());
/// ```
///
/// Like `anyhow::Error` it does not itself implement [`Error`], which is what allows the blanket conversion.
pub struct TransformError {
    class: FailureClass,
    stage: Stage,
    kind: &'static str,
    cause: Cause,
}

enum Cause {
    Text(Cow<'static, str>),
    Error(Box<dyn Error + Send + Sync>),
}

impl TransformError {
    /// A failure that will not go away by trying again.
    pub fn permanent(message: impl Into<Cow<'static, str>>) -> Self {
        Self::text(FailureClass::Permanent, message)
    }

    /// A failure that may go away by trying again.
    pub fn transient(message: impl Into<Cow<'static, str>>) -> Self {
        Self::text(FailureClass::Transient, message)
    }

    /// Something needed is down; the record is not to blame.
    pub fn infrastructure(message: impl Into<Cow<'static, str>>) -> Self {
        Self::text(FailureClass::Infrastructure, message)
    }

    fn text(class: FailureClass, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class,
            stage: Stage::Transform,
            kind: "TransformError",
            cause: Cause::Text(message.into()),
        }
    }

    /// The same failure, of another class.
    #[must_use]
    pub fn with_class(mut self, class: FailureClass) -> Self {
        self.class = class;
        self
    }

    /// The same failure, in another stage.
    #[must_use]
    pub fn at_stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// Its class.
    pub fn class(&self) -> FailureClass {
        self.class
    }

    /// The stage it happened in.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The name of the error's type, as Rust writes it.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The messages of its causes, outermost first, without its own.
    pub fn chain(&self) -> Vec<String> {
        let mut chain = Vec::new();
        if let Cause::Error(error) = &self.cause {
            let mut source = error.source();
            while let Some(error) = source {
                chain.push(error.to_string());
                source = error.source();
            }
        }
        chain
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for TransformError {
    fn from(error: E) -> Self {
        Self {
            class: FailureClass::Transient,
            stage: Stage::Transform,
            kind: type_name::<E>(),
            cause: Cause::Error(Box::new(error)),
        }
    }
}

impl fmt::Display for TransformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Text(text) => f.write_str(text),
            Cause::Error(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for TransformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failure in {}: {self}",
            self.class,
            self.stage.as_str()
        )?;
        for cause in self.chain() {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

/// Says of a result's error which class of failure it is.
pub trait ResultExt<T> {
    /// The record will never transform.
    fn permanent(self) -> Result<T, TransformError>;
    /// Something needed is down.
    fn infrastructure(self) -> Result<T, TransformError>;
}

impl<T, E: Into<TransformError>> ResultExt<T> for Result<T, E> {
    fn permanent(self) -> Result<T, TransformError> {
        self.map_err(|error| error.into().with_class(FailureClass::Permanent))
    }

    fn infrastructure(self) -> Result<T, TransformError> {
        self.map_err(|error| error.into().with_class(FailureClass::Infrastructure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question_mark() -> Result<u8, TransformError> {
        Ok("x".parse::<u8>()?)
    }

    #[test]
    fn the_question_mark_is_transient_and_the_rest_is_said() {
        let class = |result: Result<u8, TransformError>| result.map_err(|error| error.class());
        assert_eq!(class(question_mark()), Err(FailureClass::Transient));
        assert_eq!(
            class(question_mark().permanent()),
            Err(FailureClass::Permanent)
        );
        assert_eq!(
            class("x".parse::<u8>().infrastructure()),
            Err(FailureClass::Infrastructure)
        );
    }

    #[test]
    fn the_chain_holds_the_causes() {
        let inner = std::io::Error::other("disk");
        let error = TransformError::from(std::io::Error::other(inner));
        assert_eq!(error.kind(), "std::io::error::Error");
        assert_eq!(error.to_string(), "disk");
    }
}
