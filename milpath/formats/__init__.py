"""Files of milpath: bags, predictions and the description of models."""
