"""Errors, sorted by what the caller must do.

SimilisError
├── ConfigurationError            mend the settings, then start again
│   └── WeightsError              weights are missing, or not the ones that were pinned
└── PipelineError
    ├── TransientError            not committed, delivered again after a back-off
    │   ├── ArchiveUnavailableError
    │   ├── BrokerUnavailableError
    │   └── IndexUnavailableError
    └── PermanentError            dead-lettered, then committed
        ├── MalformedEventError
        ├── EventTooLargeError
        ├── ArchiveObjectMissingError
        ├── ArchiveObjectCorruptError
        ├── NotAnImageError
        ├── UndecodablePixelsError
        │   └── OversizedPixelsError
        ├── InvalidVectorError
        ├── ModelMismatchError
        └── NotExplainableError
"""


class SimilisError(Exception):
    """Root of every error that Similis raises on purpose."""


class ConfigurationError(SimilisError):
    """A setting is missing or contradicts another."""


class WeightsError(ConfigurationError):
    """Model weights are missing, or are not the pinned ones."""


class PipelineError(SimilisError):
    """A study could not be processed."""


class TransientError(PipelineError):
    """The same input may succeed later."""


class ArchiveUnavailableError(TransientError):
    """The archive could not be read or written (disk, network)."""


class BrokerUnavailableError(TransientError):
    """Kafka did not acknowledge in time."""


class IndexUnavailableError(TransientError):
    """The vector index did not answer in time."""


class PermanentError(PipelineError):
    """The same input will fail again."""


class MalformedEventError(PermanentError):
    """A record on a topic is not the event that its topic declares."""


class EventTooLargeError(PermanentError):
    """An event is larger than a topic takes."""


class ArchiveObjectMissingError(PermanentError):
    """An event refers to an archive key that holds nothing."""


class ArchiveObjectCorruptError(PermanentError):
    """An archive object's bytes do not match the hash in its manifest."""


class NotAnImageError(PermanentError):
    """A DICOM object, or an uploaded file, holds no image."""


class UndecodablePixelsError(PermanentError):
    """Pixel data is corrupt, truncated or in an encoding that cannot be decoded."""


class OversizedPixelsError(UndecodablePixelsError):
    """An image is larger than the settings allow; it was not decoded."""


class InvalidVectorError(PermanentError):
    """A vector is NaN, zero, or of the wrong dimension."""


class ModelMismatchError(PermanentError):
    """An event was made by another backbone or head than the ones loaded here."""


class NotExplainableError(PermanentError):
    """No saliency map can be made: the classifier or the features give nothing to explain."""
