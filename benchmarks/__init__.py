"""Measurements against other tools. See README.md in this folder."""
