"""napari-milpath: whole-slide images and the attention of milpath's models in napari.

It never imports TensorFlow, which crashes in one process with software OpenGL; models run in a
child process.
"""

__version__ = "0.1.0"
