"""Everything a person or a script gets to see: standard output and error, tables, plots, JSON.

A module each, imported where it is needed: a command that draws nothing does not load what draws.
"""
