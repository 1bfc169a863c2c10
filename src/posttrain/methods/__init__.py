"""Methods: each wires a source, an objective and the one loop together. What a method may be
told is its signature.
"""
