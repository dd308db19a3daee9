"""Frameworks whose models farebox does not see through an SDK: one file each, imported by whoever uses it."""
