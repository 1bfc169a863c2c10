"""From text and rows to token forests."""
