"""Tools for rows before they are trained on: report, copies, overlap, mixing, filters."""
