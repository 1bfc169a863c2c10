"""What a run shows: report.html, the table of its stages, the picture of the README."""
