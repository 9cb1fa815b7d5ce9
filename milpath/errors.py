"""The tree of all errors with a cause that the user can correct.

::

    MilpathError                   its text is one line: the fact, what was expected, the remedy
    ├── UsageError                 options, parameters or a cohort file are wrong      exit 2
    ├── SlideError                 this slide failed, the others continue               exit 3, 4
    │   ├── UnsupportedSlideError  not a slide, or of a kind milpath does not support
    │   ├── ResolutionError        µm per pixel missing, implausible, or too coarse
    │   ├── AnnotationError        its tissue annotation is missing or wrong
    │   └── SlideReadError         pixels of an opened slide cannot be read
    ├── StoredFileError            a bag, prediction or model is missing or invalid     exit 3, 4
    └── OutputError                a result cannot be written: disk full, read-only    exit 5

Any other exception is a bug of milpath and keeps its traceback.
"""

import errno

_MEMORY_SIGNS = (
    "cannot allocate memory",
    "unable to allocate",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
    "oom when allocating",
)


class MilpathError(Exception):
    """Base of all errors with a one-line text for the user."""


class UsageError(MilpathError):
    """Options, parameters or a cohort file are wrong; nothing was started."""


class SlideError(MilpathError):
    """One slide cannot be processed; the others continue."""


class UnsupportedSlideError(SlideError):
    """The file is not a slide, or of a kind milpath does not support."""


class ResolutionError(SlideError):
    """The slide's µm per pixel is missing, implausible, or too coarse for the target."""


class AnnotationError(SlideError):
    """The tissue annotation is missing, not an annotation, or not of this slide."""


class SlideReadError(SlideError):
    """Pixels of an opened slide cannot be read."""


class StoredFileError(MilpathError):
    """A bag, prediction or model bundle is missing or invalid."""


class OutputError(MilpathError):
    """A result cannot be written."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is not enough memory."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if any(sign in str(error).lower() for sign in _MEMORY_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False
