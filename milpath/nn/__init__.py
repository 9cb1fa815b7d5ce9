"""The network: the only room that imports Keras (and, through it, TensorFlow)."""
