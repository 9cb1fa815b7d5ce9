"""napari-milpath: slides, and where a model found its evidence, in napari.

Never imports TensorFlow: it and software OpenGL crash in one process. Models run as a child.
"""

__version__ = "0.1.0"
