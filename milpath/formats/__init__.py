"""Files that milpath writes and reads back: bags, predictions, models."""
