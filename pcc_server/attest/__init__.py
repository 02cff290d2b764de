"""Evidence collectors, one file per tier."""
