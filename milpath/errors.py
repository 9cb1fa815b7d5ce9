"""Everything that can go wrong for a reason the user can mend, as one tree.

::

    MilpathError                   its text is one line: fact, expected, got, remedy
    ├── UsageError                 options, parameters or a cohort file are wrong      exit 2
    ├── SlideError                 this slide failed, the others go on                 exit 3, 4
    │   ├── UnsupportedSlideError  no slide, or of a kind milpath does not treat
    │   ├── ResolutionError        µm per pixel missing, absurd, or too coarse
    │   ├── AnnotationError           the annotation of its tissue is missing, or none
    │   └── SlideReadError         pixels of an opened slide cannot be read
    ├── StoredFileError            a bag, prediction or model is not what it should be exit 3, 4
    └── OutputError                a result cannot be written: disk full, read-only    exit 5

Anything else that is raised is a bug of milpath and keeps its traceback.
"""


class MilpathError(Exception):
    """Base of all errors whose one-line text is meant for the user."""


class UsageError(MilpathError):
    """Options, parameters or a cohort file are wrong; nothing was started."""


class SlideError(MilpathError):
    """One slide cannot be treated; the others go on."""


class UnsupportedSlideError(SlideError):
    """The file is not a slide, or of a kind milpath does not treat."""


class ResolutionError(SlideError):
    """The slide's µm per pixel is missing, absurd, or too coarse for what was asked."""


class AnnotationError(SlideError):
    """The annotation of the slide's tissue is missing, not an annotation, or not of this slide."""


class SlideReadError(SlideError):
    """Pixels of an opened slide cannot be read."""


class StoredFileError(MilpathError):
    """A bag, prediction or model bundle is not what it should be."""


class OutputError(MilpathError):
    """A result cannot be written."""
