"""What a run shows: report.html, the table of its stages, cells of a notebook."""
