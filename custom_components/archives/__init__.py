"""Zip files that come from strangers, and the names in them: read only where nothing is doubtful."""
