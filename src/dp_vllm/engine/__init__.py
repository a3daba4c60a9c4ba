"""Everything that is known of an engine, and nowhere else: its routes, its answers, its flags, its command line.

Pure facts and pure functions. The engine itself is never imported.
"""
