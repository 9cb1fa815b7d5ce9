"""Published encoders: what is known of them, and their weights."""
