"""The endpoint picker: one inference request in, an ordered list of endpoints out."""
