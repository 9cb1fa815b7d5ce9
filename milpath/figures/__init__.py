"""Pictures: heatmaps, overlays, QC, curves, HTML pages."""
