"""The lab: AdaBelief and its rivals on the paper's tasks, and a report of what came out.

It needs the `lab` extra (`pip install 'adabelief[lab]'`); the command `adabelief` is its door.
"""
